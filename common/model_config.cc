#include "common/model_config.h"

#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace flexquant {
namespace {

using Json = nlohmann::ordered_json;

struct Family {
  const char* name;
  const char* architecture;  // config.json's architectures[0]
  bool qkv_bias;             // when config.json does not say
  bool qk_norm;
};

constexpr std::array<Family, 4> kFamilies = {{{"llama", "LlamaForCausalLM", false, false},
                                              {"mistral", "MistralForCausalLM", false, false},
                                              {"qwen2", "Qwen2ForCausalLM", true, false},
                                              {"qwen3", "Qwen3ForCausalLM", false, true}}};

const Family* FindFamily(const std::string& name) {
  for (const Family& family : kFamilies) {
    if (name == family.name) {
      return &family;
    }
  }
  return nullptr;
}

absl::Status RangeError(const char* field, double value, double low, double high) {
  return absl::InvalidArgumentError(
      absl::StrCat("config field \"", field, "\" is ", value, "; allowed are ", low, " to ", high));
}

// Typed access that never throws. An absent or null field leaves the default.
class Fields {
 public:
  explicit Fields(const Json& json) : json_(json) {}

  bool Has(const char* field) const { return json_.contains(field) && !json_[field].is_null(); }

  absl::Status Integer(const char* field, int64_t& out) const {
    if (!Has(field)) {
      return absl::OkStatus();
    }
    if (!json_[field].is_number_integer()) {
      return absl::InvalidArgumentError(
          absl::StrCat("config field \"", field, "\" is ", json_[field].dump(), ", not an integer"));
    }
    out = json_[field].get<int64_t>();
    return absl::OkStatus();
  }
  absl::Status Number(const char* field, double& out) const {
    if (!Has(field)) {
      return absl::OkStatus();
    }
    if (!json_[field].is_number()) {
      return absl::InvalidArgumentError(
          absl::StrCat("config field \"", field, "\" is ", json_[field].dump(), ", not a number"));
    }
    out = json_[field].get<double>();
    return absl::OkStatus();
  }
  absl::Status Bool(const char* field, bool& out) const {
    if (!Has(field)) {
      return absl::OkStatus();
    }
    if (!json_[field].is_boolean()) {
      return absl::InvalidArgumentError(
          absl::StrCat("config field \"", field, "\" is ", json_[field].dump(), ", not true or false"));
    }
    out = json_[field].get<bool>();
    return absl::OkStatus();
  }
  std::string String(const char* field) const {
    return Has(field) && json_[field].is_string() ? json_[field].get<std::string>() : "";
  }

 private:
  const Json& json_;
};

absl::Status ReadShape(const Fields& fields, ModelConfig& config) {
  FQ_RETURN_IF_ERROR(fields.Integer("hidden_size", config.hidden_size));
  FQ_RETURN_IF_ERROR(fields.Integer("intermediate_size", config.intermediate_size));
  FQ_RETURN_IF_ERROR(fields.Integer("num_hidden_layers", config.num_layers));
  FQ_RETURN_IF_ERROR(fields.Integer("num_attention_heads", config.num_heads));
  config.num_kv_heads = config.num_heads;
  FQ_RETURN_IF_ERROR(fields.Integer("num_key_value_heads", config.num_kv_heads));
  config.head_dim = config.num_heads > 0 ? config.hidden_size / config.num_heads : 0;
  FQ_RETURN_IF_ERROR(fields.Integer("head_dim", config.head_dim));
  FQ_RETURN_IF_ERROR(fields.Integer("vocab_size", config.vocab_size));
  FQ_RETURN_IF_ERROR(fields.Integer("max_position_embeddings", config.max_context));
  FQ_RETURN_IF_ERROR(fields.Number("rms_norm_eps", config.rms_norm_eps));
  FQ_RETURN_IF_ERROR(fields.Integer("sliding_window", config.sliding_window));
  // Qwen2 and Qwen3 write a window that is off by default.
  bool use_window = config.family == "mistral";
  FQ_RETURN_IF_ERROR(fields.Bool("use_sliding_window", use_window));
  if (!use_window) {
    config.sliding_window = 0;
  }
  return absl::OkStatus();
}

absl::Status ReadRope(const Json& json, ModelConfig& config) {
  RopeConfig& rope = config.rope;
  FQ_RETURN_IF_ERROR(Fields(json).Number("rope_theta", rope.theta));
  rope.original_max_position = config.max_context;
  if (json.contains("rope_frequency_divisors")) {
    const Json& divisors = json["rope_frequency_divisors"];
    for (const Json& divisor : divisors) {
      if (!divisor.is_number()) {
        return absl::InvalidArgumentError("config field \"rope_frequency_divisors\" holds something that is no number");
      }
      rope.frequency_divisors.push_back(divisor.get<float>());
    }
  }
  if (!json.contains("rope_scaling") || json["rope_scaling"].is_null()) {
    return absl::OkStatus();
  }
  if (!json["rope_scaling"].is_object()) {
    return absl::InvalidArgumentError("config field \"rope_scaling\" is not an object");
  }
  const Fields scaling(json["rope_scaling"]);
  std::string type = scaling.String("rope_type");
  if (type.empty()) {
    type = scaling.String("type");
  }
  FQ_RETURN_IF_ERROR(scaling.Number("factor", rope.factor));
  if (type == "default") {
    return absl::OkStatus();
  }
  if (type == "linear") {
    rope.scaling = RopeScaling::kLinear;
    return absl::OkStatus();
  }
  if (type != "llama3") {
    return absl::UnimplementedError(
        absl::StrCat("RoPE scaling \"", type, "\" is not supported; supported are linear and llama3"));
  }
  rope.scaling = RopeScaling::kLlama3;
  FQ_RETURN_IF_ERROR(scaling.Number("low_freq_factor", rope.low_freq_factor));
  FQ_RETURN_IF_ERROR(scaling.Number("high_freq_factor", rope.high_freq_factor));
  return scaling.Integer("original_max_position_embeddings", rope.original_max_position);
}

absl::Status ReadTokenIds(const Json& json, ModelConfig& config) {
  FQ_RETURN_IF_ERROR(Fields(json).Integer("bos_token_id", config.bos_token_id));
  if (!json.contains("eos_token_id") || json["eos_token_id"].is_null()) {
    return absl::OkStatus();
  }
  const Json& eos = json["eos_token_id"];
  for (const Json& id : eos.is_array() ? eos : Json::array({eos})) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() > UINT32_MAX) {
      return absl::InvalidArgumentError(
          absl::StrCat("config field \"eos_token_id\" holds ", id.dump(), ", not a token id"));
    }
    config.eos_token_ids.push_back(id.get<uint32_t>());
  }
  return absl::OkStatus();
}

Json RopeJson(const RopeConfig& rope) {
  if (rope.scaling == RopeScaling::kLinear) {
    return {{"rope_type", "linear"}, {"factor", rope.factor}};
  }
  if (rope.scaling == RopeScaling::kLlama3) {
    return {{"rope_type", "llama3"},
            {"factor", rope.factor},
            {"low_freq_factor", rope.low_freq_factor},
            {"high_freq_factor", rope.high_freq_factor},
            {"original_max_position_embeddings", rope.original_max_position}};
  }
  return nullptr;
}

absl::Status ValidateRope(const ModelConfig& config) {
  const RopeConfig& rope = config.rope;
  if (!(rope.theta >= 1.0 && rope.theta <= 1e12)) {
    return RangeError("rope_theta", rope.theta, 1, 1e12);
  }
  if (!(rope.factor > 0.0 && rope.factor <= 1e6)) {
    return RangeError("rope_scaling.factor", rope.factor, 0, 1e6);
  }
  if (rope.scaling == RopeScaling::kLlama3 &&
      !(rope.low_freq_factor > 0 && rope.high_freq_factor > rope.low_freq_factor && rope.original_max_position > 0)) {
    return absl::InvalidArgumentError(
        "config field \"rope_scaling\": needs 0 < low_freq_factor < high_freq_factor and a positive original context");
  }
  if (!rope.frequency_divisors.empty() && rope.frequency_divisors.size() != static_cast<size_t>(config.head_dim / 2)) {
    return absl::InvalidArgumentError(absl::StrCat("config field \"rope_frequency_divisors\" has ",
                                                   rope.frequency_divisors.size(),
                                                   " values, expected head_dim / 2 = ", config.head_dim / 2));
  }
  for (const float divisor : rope.frequency_divisors) {
    if (!(divisor > 0 && std::isfinite(divisor))) {
      return RangeError("rope_frequency_divisors", static_cast<double>(divisor), 0, 1e30);
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ModelConfig::Validate() const {
  if (FindFamily(family) == nullptr) {
    return absl::UnimplementedError(
        absl::StrCat("model family \"", family, "\" is not supported; supported are llama, mistral, qwen2, qwen3"));
  }
  struct Range {
    const char* field;
    int64_t value;
    int64_t low;
    int64_t high;
  };
  const std::array<Range, 9> ranges = {{{"hidden_size", hidden_size, 1, 1 << 17},
                                        {"intermediate_size", intermediate_size, 1, 1 << 20},
                                        {"num_hidden_layers", num_layers, 1, 1024},
                                        {"num_attention_heads", num_heads, 1, 1024},
                                        {"num_key_value_heads", num_kv_heads, 1, 1024},
                                        {"head_dim", head_dim, 2, 512},
                                        {"vocab_size", vocab_size, 1, 1 << 24},
                                        {"max_position_embeddings", max_context, 1, 1 << 26},
                                        {"sliding_window", sliding_window, 0, 1 << 26}}};
  for (const Range& range : ranges) {
    if (range.value < range.low || range.value > range.high) {
      return RangeError(range.field, static_cast<double>(range.value), static_cast<double>(range.low),
                        static_cast<double>(range.high));
    }
  }
  if (num_heads % num_kv_heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat("config: num_attention_heads (", num_heads,
                                                   ") is not a multiple of num_key_value_heads (", num_kv_heads, ")"));
  }
  if (head_dim % 2 != 0) {
    return absl::InvalidArgumentError(absl::StrCat("config field \"head_dim\" is ", head_dim, "; it must be even"));
  }
  if (!(rms_norm_eps > 0 && rms_norm_eps < 1)) {
    return RangeError("rms_norm_eps", rms_norm_eps, 0, 1);
  }
  for (const uint32_t id : eos_token_ids) {
    if (id >= vocab_size) {
      return RangeError("eos_token_id", id, 0, static_cast<double>(vocab_size - 1));
    }
  }
  if (bos_token_id < -1 || bos_token_id >= vocab_size) {
    return RangeError("bos_token_id", static_cast<double>(bos_token_id), -1, static_cast<double>(vocab_size - 1));
  }
  return ValidateRope(*this);
}

uint64_t ModelConfig::NumParameters() const {
  const int64_t attention = hidden_size * (q_size() + 2 * kv_size()) + q_size() * hidden_size;
  const int64_t mlp = 3 * hidden_size * intermediate_size;
  int64_t vectors = 2 * hidden_size;
  vectors += qk_norm ? 2 * head_dim : 0;
  vectors += qkv_bias ? q_size() + 2 * kv_size() : 0;
  vectors += o_bias ? hidden_size : 0;
  vectors += mlp_bias ? 2 * intermediate_size + hidden_size : 0;
  const int64_t embeddings = (tied_head ? 1 : 2) * vocab_size * hidden_size;
  return static_cast<uint64_t>(num_layers * (attention + mlp + vectors) + embeddings + hidden_size);
}

absl::StatusOr<ModelConfig> ModelConfig::FromJson(const std::string& json_text) {
  const Json json = Json::parse(json_text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) {
    return absl::InvalidArgumentError("config is not a JSON object");
  }
  const Fields fields(json);
  ModelConfig config;
  config.family = fields.String("model_type");
  const Family* family = FindFamily(config.family);
  if (family == nullptr) {
    return absl::UnimplementedError(absl::StrCat("model family \"", config.family,
                                                 "\" (config field \"model_type\") is not supported; supported are "
                                                 "llama (SmolLM2 too), mistral, qwen2, qwen3"));
  }
  config.name = fields.String("_name_or_path");
  FQ_RETURN_IF_ERROR(ReadShape(fields, config));
  FQ_RETURN_IF_ERROR(ReadRope(json, config));
  FQ_RETURN_IF_ERROR(ReadTokenIds(json, config));
  FQ_RETURN_IF_ERROR(fields.Bool("tie_word_embeddings", config.tied_head));
  config.qk_norm = family->qk_norm;
  config.qkv_bias = family->qkv_bias;
  bool attention_bias = false;
  FQ_RETURN_IF_ERROR(fields.Bool("attention_bias", attention_bias));
  // Llama's and Qwen3's attention_bias covers o as well; Qwen2's q, k and v biases are always there and o's never.
  config.qkv_bias = config.qkv_bias || attention_bias;
  config.o_bias = attention_bias;
  // Ours: Hugging Face's words cannot say every mixture.
  FQ_RETURN_IF_ERROR(fields.Bool("qkv_bias", config.qkv_bias));
  FQ_RETURN_IF_ERROR(fields.Bool("qk_norm", config.qk_norm));
  FQ_RETURN_IF_ERROR(fields.Bool("mlp_bias", config.mlp_bias));
  FQ_RETURN_IF_ERROR(config.Validate());
  return config;
}

std::string ModelConfig::ToJson() const {
  const Family* known = FindFamily(family);
  Json json;
  json["architectures"] = {known != nullptr ? known->architecture : family};
  json["model_type"] = family;
  json["_name_or_path"] = name;
  json["hidden_size"] = hidden_size;
  json["intermediate_size"] = intermediate_size;
  json["num_hidden_layers"] = num_layers;
  json["num_attention_heads"] = num_heads;
  json["num_key_value_heads"] = num_kv_heads;
  json["head_dim"] = head_dim;
  json["hidden_act"] = "silu";
  json["vocab_size"] = vocab_size;
  json["max_position_embeddings"] = max_context;
  json["rms_norm_eps"] = rms_norm_eps;
  json["rope_theta"] = rope.theta;
  json["rope_scaling"] = RopeJson(rope);
  if (!rope.frequency_divisors.empty()) {
    json["rope_frequency_divisors"] = rope.frequency_divisors;
  }
  json["sliding_window"] = sliding_window > 0 ? Json(sliding_window) : Json(nullptr);
  json["use_sliding_window"] = sliding_window > 0;
  json["tie_word_embeddings"] = tied_head;
  json["attention_bias"] = o_bias;
  json["qkv_bias"] = qkv_bias;
  json["qk_norm"] = qk_norm;
  json["mlp_bias"] = mlp_bias;
  json["bos_token_id"] = bos_token_id >= 0 ? Json(bos_token_id) : Json(nullptr);
  json["eos_token_id"] = eos_token_ids;
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace flexquant
