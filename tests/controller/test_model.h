#ifndef FLEXQUANT_TESTS_CONTROLLER_TEST_MODEL_H_
#define FLEXQUANT_TESTS_CONTROLLER_TEST_MODEL_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "controller/model_package.h"

namespace flexquant::controller {

inline constexpr uint32_t kBos = 256;
inline constexpr uint32_t kEos = 257;
inline constexpr uint32_t kTestVocab = 258;

// One token a byte, a begin and an end of sequence.
class ByteTokenizer final : public Tokenizer {
 public:
  explicit ByteTokenizer(bool adds_bos = true) : adds_bos_(adds_bos) {}

  absl::StatusOr<std::vector<uint32_t>> Encode(absl::string_view text, const EncodeOptions& options) const override {
    if (FindInvalidUtf8(text) >= 0) {
      return absl::InvalidArgumentError("invalid UTF-8");
    }
    std::vector<uint32_t> ids;
    if (options.add_special && adds_bos_) {
      ids.push_back(kBos);
    }
    for (const char c : text) {
      ids.push_back(static_cast<unsigned char>(c));
    }
    return ids;
  }
  std::string TokenBytes(uint32_t id, bool render_special) const override {
    if (id < kBos) {
      return std::string(1, static_cast<char>(id));
    }
    return render_special && id < kTestVocab ? (id == kBos ? "<bos>" : "<eos>") : "";
  }
  std::string Decode(const std::vector<uint32_t>& ids, bool render_special) const override {
    std::string text;
    for (const uint32_t id : ids) {
      text += TokenBytes(id, render_special);
    }
    return text;
  }
  uint32_t vocab_size() const override { return kTestVocab; }
  bool adds_bos() const override { return adds_bos_; }
  int64_t bos_id() const override { return kBos; }
  const std::vector<uint32_t>& eos_ids() const override { return eos_ids_; }
  bool IsSpecial(uint32_t id) const override { return id >= kBos; }
  int64_t SpecialId(absl::string_view text) const override {
    return text == "<bos>" ? int64_t{kBos} : text == "<eos>" ? int64_t{kEos} : -1;
  }
  const std::string& chat_template() const override { return chat_template_; }

 private:
  const bool adds_bos_;
  const std::vector<uint32_t> eos_ids_ = {kEos};
  const std::string chat_template_;
};

// Two blocks: nine layer groups.
inline ModelConfig TestConfig() {
  ModelConfig config;
  config.family = "llama";
  config.name = "tiny";
  config.hidden_size = 64;
  config.intermediate_size = 128;
  config.num_layers = 2;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 16;
  config.vocab_size = kTestVocab;
  config.max_context = 128;
  config.tied_head = true;
  config.eos_token_ids = {kEos};
  return config;
}

inline ModelPackage TestModel(bool has_reference = false, bool adds_bos = true) {
  return MakeModelPackage("tiny", "revision", TestConfig(), LayerGroups(TestConfig(), 32, Dtype::kF32), has_reference,
                          std::make_unique<ByteTokenizer>(adds_bos));
}

}  // namespace flexquant::controller

#endif  // FLEXQUANT_TESTS_CONTROLLER_TEST_MODEL_H_
