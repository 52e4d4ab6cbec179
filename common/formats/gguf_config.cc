#include "common/formats/gguf_config.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "common/formats/ggml_dequantize.h"
#include "common/status_macros.h"

namespace flexquant {
namespace {

constexpr int64_t kControlTokenType = 3;

// Reads keys under the architecture's name.
class Reader {
 public:
  Reader(const GgufFile& file, std::string architecture) : file_(file), architecture_(std::move(architecture)) {}

  std::string Key(absl::string_view name) const { return absl::StrCat(architecture_, ".", name); }
  bool Has(absl::string_view name) const { return file_.Has(Key(name)); }

  absl::Status Required(absl::string_view name, int64_t* value) const {
    FQ_ASSIGN_OR_RETURN(*value, file_.GetInt64(Key(name)));
    return absl::OkStatus();
  }
  absl::Status Optional(absl::string_view name, int64_t* value) const {
    return Has(name) ? Required(name, value) : absl::OkStatus();
  }
  absl::Status Optional(absl::string_view name, double* value) const {
    if (Has(name)) {
      FQ_ASSIGN_OR_RETURN(*value, file_.GetDouble(Key(name)));
    }
    return absl::OkStatus();
  }

  absl::Status Unsupported(absl::string_view what) const {
    return absl::UnimplementedError(absl::StrCat(file_.path(), ": ", what));
  }

 private:
  const GgufFile& file_;
  std::string architecture_;
};

absl::Status CheckFeatures(const GgufFile& file, const Reader& reader) {
  int64_t experts = 0;
  FQ_RETURN_IF_ERROR(reader.Optional("expert_count", &experts));
  if (experts > 0) {
    return reader.Unsupported(
        absl::StrCat(reader.Key("expert_count"), " is ", experts, "; supported: models without experts"));
  }
  if (file.Has("split.count")) {
    FQ_ASSIGN_OR_RETURN(const int64_t parts, file.GetInt64("split.count"));
    if (parts > 1) {
      return reader.Unsupported(absl::StrCat(
          "is one of ", parts, " parts; supported: whole files (join them with llama-gguf-split --merge)"));
    }
  }
  for (const char* name : {"rope_factors_long.weight", "rope_factors_short.weight"}) {
    if (file.tensors().count(name) > 0) {
      return reader.Unsupported(absl::StrCat("tensor ", name, ": LongRoPE is not supported"));
    }
  }
  return absl::OkStatus();
}

absl::Status ReadShape(const GgufFile& file, const Reader& reader, ModelConfig* config) {
  FQ_RETURN_IF_ERROR(reader.Required("embedding_length", &config->hidden_size));
  FQ_RETURN_IF_ERROR(reader.Required("feed_forward_length", &config->intermediate_size));
  FQ_RETURN_IF_ERROR(reader.Required("block_count", &config->num_layers));
  FQ_RETURN_IF_ERROR(reader.Required("attention.head_count", &config->num_heads));
  FQ_RETURN_IF_ERROR(reader.Required("context_length", &config->max_context));
  config->num_kv_heads = config->num_heads;
  FQ_RETURN_IF_ERROR(reader.Optional("attention.head_count_kv", &config->num_kv_heads));
  config->head_dim = config->num_heads > 0 ? config->hidden_size / config->num_heads : 0;
  FQ_RETURN_IF_ERROR(reader.Optional("attention.key_length", &config->head_dim));
  int64_t value_length = config->head_dim;
  FQ_RETURN_IF_ERROR(reader.Optional("attention.value_length", &value_length));
  if (value_length != config->head_dim) {
    return reader.Unsupported(absl::StrCat(reader.Key("attention.value_length"), " is ", value_length,
                                           "; supported: the key length, ", config->head_dim));
  }
  FQ_RETURN_IF_ERROR(reader.Optional("attention.layer_norm_rms_epsilon", &config->rms_norm_eps));
  FQ_RETURN_IF_ERROR(reader.Optional("attention.sliding_window", &config->sliding_window));
  const auto embedding = file.tensors().find("token_embd.weight");
  if (embedding == file.tensors().end()) {
    return absl::DataLossError(absl::StrCat(file.path(), ": tensor token_embd.weight is missing (vocabulary only?)"));
  }
  config->vocab_size = embedding->second.shape.front();
  return absl::OkStatus();
}

absl::Status ReadFrequencyDivisors(const GgufFile& file, std::vector<float>* divisors) {
  const auto it = file.tensors().find("rope_freqs.weight");
  if (it == file.tensors().end()) {
    return absl::OkStatus();
  }
  const GgufTensor& tensor = it->second;
  if (tensor.type != GgmlType::kF32 || tensor.shape.size() != 1 || tensor.shape[0] > 256) {
    return absl::InvalidArgumentError(
        absl::StrCat(file.path(), ": tensor rope_freqs.weight must be a vector of F32 of at most 256 elements"));
  }
  divisors->resize(static_cast<size_t>(tensor.shape[0]));
  GgmlDequantize(tensor.type, tensor.data, absl::MakeSpan(*divisors));
  return absl::OkStatus();
}

absl::Status ReadRope(const GgufFile& file, const Reader& reader, ModelConfig* config) {
  FQ_RETURN_IF_ERROR(reader.Optional("rope.freq_base", &config->rope.theta));
  int64_t rotated = config->head_dim;
  FQ_RETURN_IF_ERROR(reader.Optional("rope.dimension_count", &rotated));
  if (rotated != config->head_dim) {
    return reader.Unsupported(absl::StrCat(reader.Key("rope.dimension_count"), " is ", rotated,
                                           "; supported: the whole head, ", config->head_dim));
  }
  std::string type = "linear";
  if (reader.Has("rope.scaling.type")) {
    FQ_ASSIGN_OR_RETURN(type, file.GetString(reader.Key("rope.scaling.type")));
  }
  if (type != "none" && type != "linear") {
    return reader.Unsupported(
        absl::StrCat(reader.Key("rope.scaling.type"), " is \"", type, "\"; supported: none, linear"));
  }
  // Zero and one mean no scaling; scale_linear is the key of old files.
  double factor = 0;
  FQ_RETURN_IF_ERROR(reader.Optional("rope.scale_linear", &factor));
  FQ_RETURN_IF_ERROR(reader.Optional("rope.scaling.factor", &factor));
  if (type == "linear" && factor != 0 && factor != 1) {
    config->rope.scaling = RopeScaling::kLinear;
    config->rope.factor = factor;
  }
  return ReadFrequencyDivisors(file, &config->rope.frequency_divisors);
}

// Texts that end a turn in the chat formats of these families; files often name only one end token.
bool EndsTurn(absl::string_view token) {
  return token == "<|im_end|>" || token == "<|eot_id|>" || token == "<|end_of_text|>";
}

absl::Status ReadTokenIds(const GgufFile& file, ModelConfig* config) {
  const auto add = [config](int64_t id) {
    if (id >= 0 && std::count(config->eos_token_ids.begin(), config->eos_token_ids.end(), id) == 0) {
      config->eos_token_ids.push_back(static_cast<uint32_t>(id));
    }
  };
  for (const char* key :
       {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"}) {
    if (file.Has(key)) {
      FQ_ASSIGN_OR_RETURN(const uint64_t id, file.GetUint64(key));
      // Converters write the largest id for "none".
      if (id < static_cast<uint64_t>(UINT32_MAX)) {
        add(static_cast<int64_t>(id));
      }
    }
  }
  if (file.Has("tokenizer.ggml.bos_token_id")) {
    FQ_ASSIGN_OR_RETURN(const uint64_t id, file.GetUint64("tokenizer.ggml.bos_token_id"));
    config->bos_token_id = id < static_cast<uint64_t>(UINT32_MAX) ? static_cast<int64_t>(id) : -1;
  }
  if (!file.Has("tokenizer.ggml.tokens") || !file.Has("tokenizer.ggml.token_type")) {
    return absl::OkStatus();
  }
  FQ_ASSIGN_OR_RETURN(const std::vector<std::string> tokens, file.GetStringArray("tokenizer.ggml.tokens"));
  FQ_ASSIGN_OR_RETURN(const std::vector<int64_t> types, file.GetIntArray("tokenizer.ggml.token_type"));
  if (static_cast<int64_t>(tokens.size()) > config->vocab_size) {
    return absl::InvalidArgumentError(absl::StrCat(file.path(), ": tokenizer.ggml.tokens has ", tokens.size(),
                                                   " tokens; token_embd.weight has ", config->vocab_size, " rows"));
  }
  for (size_t i = 0; i < std::min(tokens.size(), types.size()); ++i) {
    if (types[i] == kControlTokenType && EndsTurn(tokens[i])) {
      add(static_cast<int64_t>(i));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModelConfig> ReadGgufConfig(const GgufFile& file) {
  ModelConfig config;
  FQ_ASSIGN_OR_RETURN(config.family, file.GetString("general.architecture"));
  if (config.family != "llama" && config.family != "qwen2" && config.family != "qwen3") {
    return absl::UnimplementedError(
        absl::StrCat(file.path(), ": general.architecture is \"", config.family,
                     "\"; supported: llama (Llama 2 and 3, Mistral, SmolLM2), qwen2, qwen3"));
  }
  if (file.Has("general.name")) {
    FQ_ASSIGN_OR_RETURN(config.name, file.GetString("general.name"));
  }
  const Reader reader(file, config.family);
  FQ_RETURN_IF_ERROR(CheckFeatures(file, reader));
  FQ_RETURN_IF_ERROR(ReadShape(file, reader, &config));
  FQ_RETURN_IF_ERROR(ReadRope(file, reader, &config));
  const auto has = [&file](const char* name) { return file.tensors().count(name) > 0; };
  config.tied_head = !has("output.weight");
  config.qkv_bias = has("blk.0.attn_q.bias");
  config.o_bias = has("blk.0.attn_output.bias");
  config.mlp_bias = has("blk.0.ffn_gate.bias");
  config.qk_norm = config.family == "qwen3";
  FQ_RETURN_IF_ERROR(ReadTokenIds(file, &config));
  FQ_RETURN_IF_ERROR(config.Validate());
  return config;
}

}  // namespace flexquant
