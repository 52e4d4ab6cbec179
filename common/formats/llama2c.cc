#include "common/formats/llama2c.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/formats/byte_cursor.h"
#include "common/formats/gguf.h"
#include "common/formats/tensor_source.h"
#include "common/mapped_file.h"
#include "common/status_macros.h"

namespace flexquant {
namespace {

constexpr size_t kHeaderBytes = 7 * sizeof(int32_t);
constexpr int32_t kLaterVersionsMagic = 0x616b3432;
constexpr int32_t kMaxPieceBytes = 4096;
constexpr uint32_t kUnknownId = 0;
constexpr uint32_t kBosId = 1;
constexpr uint32_t kEosId = 2;
// GGUF's token types.
constexpr int32_t kNormalType = 1;
constexpr int32_t kUnknownType = 2;
constexpr int32_t kControlType = 3;
constexpr int32_t kByteType = 6;

absl::StatusOr<ModelConfig> ReadHeader(absl::Span<const uint8_t> bytes, const std::string& path) {
  ByteCursor cursor(bytes);
  std::array<int32_t, 7> header{};
  for (int32_t& value : header) {
    if (!cursor.Read(&value)) {
      return absl::DataLossError(absl::StrCat(path, ": has ", bytes.size(), " bytes; a llama2.c checkpoint has more"));
    }
  }
  if (header[0] == kLaterVersionsMagic) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": is a llama2.c checkpoint of version ", header[1],
                                                   "; supported: 0 (export it with --version 0)"));
  }
  const int64_t vocab = header[5];
  ModelConfig config;
  config.family = "llama";
  config.hidden_size = header[0];
  config.intermediate_size = header[1];
  config.num_layers = header[2];
  config.num_heads = header[3];
  config.num_kv_heads = header[4];
  config.vocab_size = std::abs(vocab);
  config.max_context = header[6];
  config.tied_head = vocab > 0;
  config.head_dim = config.num_heads > 0 ? config.hidden_size / config.num_heads : 0;
  config.bos_token_id = kBosId;
  // Training separated stories by the begin token alone, so a model ends its story with it.
  config.eos_token_ids = {kEosId, kBosId};
  if (const absl::Status status = config.Validate(); !status.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": is no llama2.c checkpoint: ", status.message()));
  }
  if (config.hidden_size != config.q_size()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": dim ", config.hidden_size, " is no multiple of its ", config.num_heads, " heads"));
  }
  return config;
}

// Hands out the file's tensors in their order.
class Layout {
 public:
  Layout(absl::Span<const uint8_t> data, const ModelConfig& config, StoredTensors* tensors)
      : data_(data), config_(config), tensors_(tensors) {}

  // One tensor a layer, stored layer after layer.
  void Blocks(const char* name, std::vector<int64_t> shape, int64_t interleaved_head_dim = 0) {
    for (int64_t layer = 0; layer < config_.num_layers; ++layer) {
      One(absl::StrCat("model.layers.", layer, ".", name, ".weight"), shape, interleaved_head_dim);
    }
  }

  void One(const std::string& name, std::vector<int64_t> shape, int64_t interleaved_head_dim = 0) {
    uint64_t size = sizeof(float);
    for (const int64_t dimension : shape) {
      size *= static_cast<uint64_t>(dimension);
    }
    if (end_ + size <= data_.size()) {
      tensors_->emplace(
          name, StoredTensor{GgmlType::kF32, std::move(shape), data_.subspan(end_, size), interleaved_head_dim});
    }
    end_ += size;
  }

  void Skip(uint64_t bytes) { end_ += bytes; }

  uint64_t end() const { return end_; }

 private:
  absl::Span<const uint8_t> data_;
  const ModelConfig& config_;
  StoredTensors* tensors_;
  uint64_t end_ = kHeaderBytes;
};

absl::StatusOr<StoredTensors> FindTensors(absl::Span<const uint8_t> bytes, const ModelConfig& config,
                                          const std::string& path) {
  const int64_t dim = config.hidden_size;
  StoredTensors tensors;
  Layout layout(bytes, config, &tensors);
  layout.One("model.embed_tokens.weight", {config.vocab_size, dim});
  layout.Blocks("input_layernorm", {dim});
  layout.Blocks("self_attn.q_proj", {dim, dim}, config.head_dim);
  layout.Blocks("self_attn.k_proj", {config.kv_size(), dim}, config.head_dim);
  layout.Blocks("self_attn.v_proj", {config.kv_size(), dim});
  layout.Blocks("self_attn.o_proj", {dim, dim});
  layout.Blocks("post_attention_layernorm", {dim});
  layout.Blocks("mlp.gate_proj", {config.intermediate_size, dim});
  layout.Blocks("mlp.down_proj", {dim, config.intermediate_size});
  layout.Blocks("mlp.up_proj", {config.intermediate_size, dim});
  layout.One("model.norm.weight", {dim});
  layout.Skip(static_cast<uint64_t>(config.max_context) * static_cast<uint64_t>(config.head_dim) * sizeof(float));
  if (!config.tied_head) {
    layout.One("lm_head.weight", {config.vocab_size, dim});
  }
  if (layout.end() != bytes.size()) {
    const std::string text = absl::StrCat(path, ": has ", bytes.size(), " bytes; its header (dim ", dim, ", hidden ",
                                          config.intermediate_size, ", ", config.num_layers, " layers, vocabulary ",
                                          config.vocab_size, ") needs exactly ", layout.end());
    return layout.end() > bytes.size()
               ? absl::DataLossError(absl::StrCat(text, " (the file is cut short; fetch it again)"))
               : absl::InvalidArgumentError(absl::StrCat(text, " (is it a llama2.c version 0 checkpoint?)"));
  }
  return tensors;
}

// The vocabulary beside a checkpoint.
absl::StatusOr<std::string> FindTokenizer(const std::string& path, int64_t vocab_size) {
  std::filesystem::path folder = std::filesystem::path(path).parent_path();
  if (folder.empty()) {
    folder = ".";
  }
  std::vector<std::string> found;
  std::error_code error;
  for (std::filesystem::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (name == absl::StrCat("tok", vocab_size, ".bin")) {
      return it->path().string();
    }
    if (absl::StartsWith(name, "tok") && absl::EndsWith(name, ".bin")) {
      found.push_back(it->path().string());
    }
  }
  const std::string standard = (folder / "tokenizer.bin").string();
  if (std::count(found.begin(), found.end(), standard) > 0) {
    return standard;
  }
  if (found.size() == 1) {
    return found.front();
  }
  return absl::NotFoundError(absl::StrCat(path, ": ", found.size(), " files named tok*.bin beside it and none is tok",
                                          vocab_size, ".bin or tokenizer.bin; name the tokenizer's path"));
}

bool IsBytePiece(const std::string& piece) {
  return piece.size() == 6 && absl::StartsWith(piece, "<0x") && piece[5] == '>';
}

class Llama2cSource : public TensorSource {
 public:
  Llama2cSource(const std::string& path, MappedFile file, ModelConfig config, StoredTensors tensors,
                Llama2cVocabulary vocabulary)
      : TensorSource(path, std::move(config), std::move(tensors)),
        file_(std::move(file)),
        vocabulary_(std::move(vocabulary)) {}

  absl::Status SaveTokenizer(const std::string& folder) const override {
    std::vector<int32_t> types;
    for (size_t id = 0; id < vocabulary_.pieces.size(); ++id) {
      const bool control = id == kBosId || id == kEosId;
      const int32_t other = IsBytePiece(vocabulary_.pieces[id]) ? kByteType : kNormalType;
      types.push_back(id == kUnknownId ? kUnknownType : control ? kControlType : other);
    }
    GgufMetadataWriter writer;
    writer.SetString("general.architecture", "llama");
    writer.SetString("tokenizer.ggml.model", "llama");
    writer.SetStringArray("tokenizer.ggml.tokens", vocabulary_.pieces);
    writer.SetFloatArray("tokenizer.ggml.scores", vocabulary_.scores);
    writer.SetInt32Array("tokenizer.ggml.token_type", types);
    writer.SetUint32("tokenizer.ggml.bos_token_id", kBosId);
    writer.SetUint32("tokenizer.ggml.eos_token_id", kEosId);
    writer.SetUint32("tokenizer.ggml.unknown_token_id", kUnknownId);
    writer.SetBool("tokenizer.ggml.add_bos_token", true);
    writer.SetBool("tokenizer.ggml.add_space_prefix", true);
    return WriteFile(absl::StrCat(folder, "/tokenizer.gguf"), writer.Serialize());
  }

  std::string Description() const override { return absl::StrCat("llama2.c version 0, ", CountTensors()); }

 private:
  MappedFile file_;
  Llama2cVocabulary vocabulary_;
};

}  // namespace

absl::StatusOr<Llama2cVocabulary> ParseLlama2cVocabulary(absl::Span<const uint8_t> bytes, int64_t vocab_size,
                                                         const std::string& path) {
  ByteCursor cursor(bytes);
  int32_t longest = 0;
  bool read = cursor.Read(&longest);
  Llama2cVocabulary vocabulary;
  for (int64_t id = 0; id < vocab_size; ++id) {
    float score = 0;
    int32_t size = 0;
    absl::Span<const uint8_t> piece;
    read = read && cursor.Read(&score) && cursor.Read(&size);
    if (read && (size < 0 || size > kMaxPieceBytes || !std::isfinite(score))) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": token ", id, " has ", size, " bytes and score ", score,
                                                     "; allowed: 0 to ", kMaxPieceBytes, " bytes, a finite score"));
    }
    if (!read || !cursor.ReadBytes(static_cast<uint64_t>(size), &piece)) {
      return absl::DataLossError(
          absl::StrCat(path, ": ends within token ", id, " of ", vocab_size, " (is it the model's tokenizer?)"));
    }
    const absl::string_view text(reinterpret_cast<const char*>(piece.data()), piece.size());
    vocabulary.pieces.push_back(absl::StrReplaceAll(text, {{" ", "\u2581"}}));
    vocabulary.scores.push_back(score);
  }
  if (cursor.remaining() > 0) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": has ", cursor.remaining(), " bytes after token ",
                                                   vocab_size - 1,
                                                   ", the model's last (is it the model's tokenizer?)"));
  }
  // llama2.c writes the text it prints for these.
  constexpr std::array<const char*, 3> kSpecialPieces = {"<unk>", "<s>", "</s>"};
  for (size_t id = 0; id < kSpecialPieces.size() && id < vocabulary.pieces.size(); ++id) {
    vocabulary.pieces[id] = kSpecialPieces[id];
  }
  return vocabulary;
}

absl::StatusOr<std::unique_ptr<ModelSource>> OpenLlama2cSource(const std::string& path,
                                                               const std::string& tokenizer_path) {
  FQ_ASSIGN_OR_RETURN(MappedFile file, MappedFile::Open(path));
  FQ_ASSIGN_OR_RETURN(ModelConfig config, ReadHeader(file.bytes(), path));
  FQ_ASSIGN_OR_RETURN(StoredTensors tensors, FindTensors(file.bytes(), config, path));
  std::string vocabulary_path = tokenizer_path;
  if (vocabulary_path.empty()) {
    FQ_ASSIGN_OR_RETURN(vocabulary_path, FindTokenizer(path, config.vocab_size));
  }
  FQ_ASSIGN_OR_RETURN(const MappedFile vocabulary_file, MappedFile::Open(vocabulary_path));
  FQ_ASSIGN_OR_RETURN(Llama2cVocabulary vocabulary,
                      ParseLlama2cVocabulary(vocabulary_file.bytes(), config.vocab_size, vocabulary_path));
  config.name = std::filesystem::path(path).stem().string();
  return std::make_unique<Llama2cSource>(path, std::move(file), std::move(config), std::move(tensors),
                                         std::move(vocabulary));
}

}  // namespace flexquant
