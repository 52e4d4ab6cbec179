#include <array>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/formats/gguf.h"
#include "common/formats/gguf_config.h"
#include "common/formats/tensor_source.h"
#include "common/status_macros.h"

namespace flexquant {
namespace {

struct NamePair {
  absl::string_view gguf;
  absl::string_view hugging_face;
};

constexpr std::array<NamePair, 11> kBlockNames = {{{"attn_norm", "input_layernorm"},
                                                   {"ffn_norm", "post_attention_layernorm"},
                                                   {"attn_q", "self_attn.q_proj"},
                                                   {"attn_k", "self_attn.k_proj"},
                                                   {"attn_v", "self_attn.v_proj"},
                                                   {"attn_output", "self_attn.o_proj"},
                                                   {"attn_q_norm", "self_attn.q_norm"},
                                                   {"attn_k_norm", "self_attn.k_norm"},
                                                   {"ffn_gate", "mlp.gate_proj"},
                                                   {"ffn_up", "mlp.up_proj"},
                                                   {"ffn_down", "mlp.down_proj"}}};

constexpr std::array<NamePair, 3> kTopNames = {{{"token_embd.weight", "model.embed_tokens.weight"},
                                                {"output_norm.weight", "model.norm.weight"},
                                                {"output.weight", "lm_head.weight"}}};

// "blk.3.attn_q.weight" -> "model.layers.3.self_attn.q_proj.weight". A name of a block that is not known keeps its own
// last part, so that it is found to have no place; "" for other names.
std::string HuggingFaceName(absl::string_view name) {
  for (const NamePair& pair : kTopNames) {
    if (name == pair.gguf) {
      return std::string(pair.hugging_face);
    }
  }
  if (!absl::StartsWith(name, "blk.")) {
    return "";
  }
  const absl::string_view rest = name.substr(4);
  const size_t dot = rest.find('.');
  const size_t last = rest.rfind('.');
  if (dot == absl::string_view::npos || last <= dot) {
    return absl::StrCat("model.layers.", rest);
  }
  absl::string_view part = rest.substr(dot + 1, last - dot - 1);
  for (const NamePair& pair : kBlockNames) {
    if (part == pair.gguf) {
      part = pair.hugging_face;
      break;
    }
  }
  return absl::StrCat("model.layers.", rest.substr(0, dot), ".", part, rest.substr(last));
}

bool IsRotated(absl::string_view name) {
  return absl::StrContains(name, ".self_attn.q_proj.") || absl::StrContains(name, ".self_attn.k_proj.");
}

StoredTensors FindTensors(const GgufFile& file, const ModelConfig& config) {
  StoredTensors tensors;
  for (const auto& [name, tensor] : file.tensors()) {
    const std::string standard = HuggingFaceName(name);
    if (standard.empty()) {
      continue;
    }
    StoredTensor stored{tensor.type, tensor.shape, tensor.data, 0};
    // Converters permute q and k of this architecture only: its rotary embedding turns neighbours.
    if (config.family == "llama" && IsRotated(standard)) {
      stored.interleaved_head_dim = config.head_dim;
    }
    tensors.emplace(standard, std::move(stored));
  }
  return tensors;
}

class GgufSource : public TensorSource {
 public:
  static absl::StatusOr<std::unique_ptr<ModelSource>> Open(const std::string& path) {
    FQ_ASSIGN_OR_RETURN(GgufFile file, GgufFile::Open(path));
    FQ_ASSIGN_OR_RETURN(ModelConfig config, ReadGgufConfig(file));
    StoredTensors tensors = FindTensors(file, config);
    std::unique_ptr<GgufSource> source(new GgufSource(path, std::move(config), std::move(tensors), std::move(file)));
    FQ_RETURN_IF_ERROR(source->CheckTensors());
    return source;
  }

  absl::Status SaveTokenizer(const std::string& folder) const override {
    if (!file_.Has("tokenizer.ggml.model")) {
      return absl::NotFoundError(absl::StrCat(
          path(), ": holds no tokenizer (tokenizer.ggml.model is missing); use a file that has its vocabulary inside"));
    }
    GgufMetadataWriter writer;
    for (const auto& [key, value] : file_.metadata()) {
      if (absl::StartsWith(key, "tokenizer.") || key == "general.architecture" || key == "general.name") {
        writer.SetRaw(key, value);
      }
    }
    return WriteFile(absl::StrCat(folder, "/tokenizer.gguf"), writer.Serialize());
  }

  std::string Description() const override { return absl::StrCat("GGUF, ", CountTensors()); }

 private:
  GgufSource(const std::string& path, ModelConfig config, StoredTensors tensors, GgufFile file)
      : TensorSource(path, std::move(config), std::move(tensors)), file_(std::move(file)) {}

  GgufFile file_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ModelSource>> OpenGgufSource(const std::string& path) { return GgufSource::Open(path); }

}  // namespace flexquant
