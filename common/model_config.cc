#include "common/model_config.h"

#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "common/status_macros.h"
#include "nlohmann/json.hpp"

namespace flexquant {
namespace {

// Ordered, so that a written file reads in the usual order.
using Json = nlohmann::ordered_json;

constexpr size_t kMaxEosTokens = 64;
constexpr size_t kMaxJsonBytes = 16 << 20;

absl::Status OutOfRange(absl::string_view field, const std::string& value, absl::string_view allowed) {
  return absl::InvalidArgumentError(absl::StrCat("model config: ", field, " is ", value, "; allowed: ", allowed));
}

absl::Status CheckInt(absl::string_view field, int64_t value, int64_t low, int64_t high) {
  return value >= low && value <= high ? absl::OkStatus()
                                       : OutOfRange(field, absl::StrCat(value), absl::StrCat(low, " to ", high));
}

absl::Status CheckReal(absl::string_view field, double value, double low, double high) {
  // Written so that NaN fails too.
  return value >= low && value <= high ? absl::OkStatus()
                                       : OutOfRange(field, absl::StrCat(value), absl::StrCat(low, " to ", high));
}

bool IsKnownFamily(absl::string_view family) {
  return family == "llama" || family == "mistral" || family == "qwen2" || family == "qwen3";
}

bool IsQwen(absl::string_view family) { return family == "qwen2" || family == "qwen3"; }

absl::string_view ArchitectureName(absl::string_view family) {
  if (family == "mistral") {
    return "MistralForCausalLM";
  }
  if (family == "qwen2") {
    return "Qwen2ForCausalLM";
  }
  return family == "qwen3" ? "Qwen3ForCausalLM" : "LlamaForCausalLM";
}

// Reads the fields of one JSON object; null counts as absent, as in Hugging Face's own loader.
class Fields {
 public:
  Fields(const Json& object, std::string where) : object_(object), where_(std::move(where)) {}

  const Json* Find(const char* key) const {
    const auto it = object_.find(key);
    return it == object_.end() || it->is_null() ? nullptr : &*it;
  }

  absl::Status Int(const char* key, int64_t* value) const {
    const Json* field = Find(key);
    return field == nullptr ? absl::OkStatus() : AsInt(key, *field, value);
  }

  absl::Status RequiredInt(const char* key, int64_t* value) const {
    const Json* field = Find(key);
    return field == nullptr ? absl::InvalidArgumentError(absl::StrCat(where_, ": ", key, " is missing"))
                            : AsInt(key, *field, value);
  }

  absl::Status Real(const char* key, double* value) const {
    const Json* field = Find(key);
    if (field == nullptr) {
      return absl::OkStatus();
    }
    if (!field->is_number()) {
      return WrongType(key, "a number");
    }
    *value = field->get<double>();
    return absl::OkStatus();
  }

  absl::Status Bool(const char* key, bool* value) const {
    const Json* field = Find(key);
    if (field == nullptr) {
      return absl::OkStatus();
    }
    if (!field->is_boolean()) {
      return WrongType(key, "true or false");
    }
    *value = field->get<bool>();
    return absl::OkStatus();
  }

  absl::Status String(const char* key, std::string* value) const {
    const Json* field = Find(key);
    if (field == nullptr) {
      return absl::OkStatus();
    }
    if (!field->is_string()) {
      return WrongType(key, "a string");
    }
    *value = field->get<std::string>();
    return absl::OkStatus();
  }

  absl::Status AsInt(const char* key, const Json& field, int64_t* value) const {
    const bool fits = field.is_number_integer() &&
                      (!field.is_number_unsigned() ||
                       field.get<uint64_t>() <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max()));
    if (!fits) {
      return WrongType(key, "an integer");
    }
    *value = field.get<int64_t>();
    return absl::OkStatus();
  }

  absl::Status WrongType(const char* key, absl::string_view wanted) const {
    return absl::InvalidArgumentError(absl::StrCat(where_, ": ", key, " must be ", wanted));
  }

 private:
  const Json& object_;
  std::string where_;
};

absl::Status ReadFamily(const Fields& fields, std::string* family) {
  FQ_RETURN_IF_ERROR(fields.String("model_type", family));
  const Json* architectures = fields.Find("architectures");
  if (family->empty() && architectures != nullptr && architectures->is_array() && !architectures->empty() &&
      architectures->front().is_string()) {
    const std::string architecture = architectures->front().get<std::string>();
    *family = architecture;
    for (const char* known : {"llama", "mistral", "qwen2", "qwen3"}) {
      if (ArchitectureName(known) == architecture) {
        *family = known;
      }
    }
  }
  if (!IsKnownFamily(*family)) {
    return absl::UnimplementedError(absl::StrCat("config.json: model_type is \"", *family,
                                                 "\"; supported: llama (SmolLM2 too), mistral, qwen2, qwen3"));
  }
  return absl::OkStatus();
}

absl::Status ReadRopeScaling(const Json& object, RopeConfig* rope) {
  if (!object.is_object()) {
    return absl::InvalidArgumentError("config.json: rope_scaling must be an object or null");
  }
  const Fields fields(object, "config.json: rope_scaling");
  std::string type;
  FQ_RETURN_IF_ERROR(fields.String("type", &type));
  FQ_RETURN_IF_ERROR(fields.String("rope_type", &type));
  FQ_RETURN_IF_ERROR(fields.Real("rope_theta", &rope->theta));
  if (type.empty() || type == "default") {
    return absl::OkStatus();
  }
  if (type == "linear") {
    rope->scaling = RopeScaling::kLinear;
  } else if (type == "llama3") {
    rope->scaling = RopeScaling::kLlama3;
  } else {
    return absl::UnimplementedError(
        absl::StrCat("config.json: rope_scaling type is \"", type, "\"; supported: default, linear, llama3"));
  }
  FQ_RETURN_IF_ERROR(fields.Real("factor", &rope->factor));
  FQ_RETURN_IF_ERROR(fields.Real("low_freq_factor", &rope->low_freq_factor));
  FQ_RETURN_IF_ERROR(fields.Real("high_freq_factor", &rope->high_freq_factor));
  return fields.Int("original_max_position_embeddings", &rope->original_max_position);
}

absl::Status ReadRope(const Fields& fields, RopeConfig* rope) {
  FQ_RETURN_IF_ERROR(fields.Real("rope_theta", &rope->theta));
  // Transformers 5 keeps base and scaling together under rope_parameters.
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    if (const Json* scaling = fields.Find(key)) {
      FQ_RETURN_IF_ERROR(ReadRopeScaling(*scaling, rope));
    }
  }
  const Json* divisors = fields.Find("rope_frequency_divisors");
  if (divisors == nullptr) {
    return absl::OkStatus();
  }
  if (!divisors->is_array()) {
    return fields.WrongType("rope_frequency_divisors", "an array of numbers");
  }
  for (const Json& divisor : *divisors) {
    if (!divisor.is_number()) {
      return fields.WrongType("rope_frequency_divisors", "an array of numbers");
    }
    rope->frequency_divisors.push_back(static_cast<float>(divisor.get<double>()));
  }
  return absl::OkStatus();
}

// Sets window to that of every layer, 0 = none. Windows on some layers only are not supported.
absl::Status ReadSlidingWindow(const Fields& fields, const ModelConfig& config, int64_t* window) {
  *window = 0;
  FQ_RETURN_IF_ERROR(fields.Int("sliding_window", window));
  int64_t windowed_layers = config.num_layers;
  if (const Json* types = fields.Find("layer_types")) {
    if (!types->is_array()) {
      return fields.WrongType("layer_types", "an array");
    }
    windowed_layers = 0;
    for (const Json& type : *types) {
      windowed_layers += type == "sliding_attention" ? 1 : 0;
    }
  } else if (IsQwen(config.family)) {
    bool use = false;
    int64_t first = config.num_layers;
    FQ_RETURN_IF_ERROR(fields.Bool("use_sliding_window", &use));
    FQ_RETURN_IF_ERROR(fields.Int("max_window_layers", &first));
    windowed_layers = use && first < config.num_layers ? config.num_layers - first : 0;
  }
  if (windowed_layers == 0 || *window == 0) {
    *window = 0;
    return absl::OkStatus();
  }
  if (windowed_layers != config.num_layers) {
    return absl::UnimplementedError(absl::StrCat("config.json: sliding_window ", *window, " applies to ",
                                                 windowed_layers, " of ", config.num_layers,
                                                 " layers; supported: all or none (set use_sliding_window to false)"));
  }
  return absl::OkStatus();
}

absl::Status ReadTokenIds(const Fields& fields, ModelConfig* config) {
  FQ_RETURN_IF_ERROR(fields.Int("bos_token_id", &config->bos_token_id));
  const Json* eos = fields.Find("eos_token_id");
  if (eos == nullptr) {
    return absl::OkStatus();
  }
  const Json list = eos->is_array() ? *eos : Json::array({*eos});
  for (const Json& item : list) {
    int64_t id = 0;
    FQ_RETURN_IF_ERROR(fields.AsInt("eos_token_id", item, &id));
    FQ_RETURN_IF_ERROR(CheckInt("eos_token_id", id, 0, std::numeric_limits<uint32_t>::max()));
    config->eos_token_ids.push_back(static_cast<uint32_t>(id));
  }
  return absl::OkStatus();
}

absl::Status ReadBiases(const Fields& fields, ModelConfig* config) {
  const bool qwen2 = config->family == "qwen2";
  config->qkv_bias = qwen2;
  FQ_RETURN_IF_ERROR(fields.Bool("attention_bias", &config->qkv_bias));
  config->o_bias = config->qkv_bias && !qwen2;
  FQ_RETURN_IF_ERROR(fields.Bool("attention_out_bias", &config->o_bias));
  FQ_RETURN_IF_ERROR(fields.Bool("mlp_bias", &config->mlp_bias));
  config->qk_norm = config->family == "qwen3";
  return fields.Bool("use_qk_norm", &config->qk_norm);
}

absl::Status ReadShape(const Fields& fields, ModelConfig* config) {
  FQ_RETURN_IF_ERROR(fields.RequiredInt("hidden_size", &config->hidden_size));
  FQ_RETURN_IF_ERROR(fields.RequiredInt("intermediate_size", &config->intermediate_size));
  FQ_RETURN_IF_ERROR(fields.RequiredInt("num_hidden_layers", &config->num_layers));
  FQ_RETURN_IF_ERROR(fields.RequiredInt("num_attention_heads", &config->num_heads));
  FQ_RETURN_IF_ERROR(fields.RequiredInt("vocab_size", &config->vocab_size));
  FQ_RETURN_IF_ERROR(fields.RequiredInt("max_position_embeddings", &config->max_context));
  config->num_kv_heads = config->num_heads;
  FQ_RETURN_IF_ERROR(fields.Int("num_key_value_heads", &config->num_kv_heads));
  FQ_RETURN_IF_ERROR(CheckInt("num_attention_heads", config->num_heads, 1, 1 << 16));
  config->head_dim = config->family == "qwen3" ? 128 : config->hidden_size / config->num_heads;
  return fields.Int("head_dim", &config->head_dim);
}

}  // namespace

absl::Status ModelConfig::Validate() const {
  constexpr int64_t kMaxWidth = 1 << 20;
  constexpr int64_t kMaxTokens = 1 << 24;
  if (!IsKnownFamily(family)) {
    return OutOfRange("family", absl::StrCat("\"", family, "\""), "llama, mistral, qwen2, qwen3");
  }
  FQ_RETURN_IF_ERROR(CheckInt("hidden_size", hidden_size, 1, kMaxWidth));
  FQ_RETURN_IF_ERROR(CheckInt("intermediate_size", intermediate_size, 1, 4 * kMaxWidth));
  FQ_RETURN_IF_ERROR(CheckInt("num_hidden_layers", num_layers, 1, 4096));
  FQ_RETURN_IF_ERROR(CheckInt("num_attention_heads", num_heads, 1, 1 << 16));
  FQ_RETURN_IF_ERROR(CheckInt("num_key_value_heads", num_kv_heads, 1, num_heads));
  if (num_heads % num_kv_heads != 0) {
    return OutOfRange("num_key_value_heads", absl::StrCat(num_kv_heads),
                      absl::StrCat("divisors of num_attention_heads, ", num_heads));
  }
  FQ_RETURN_IF_ERROR(CheckInt("head_dim", head_dim, 2, 512));
  if (head_dim % 2 != 0) {
    return OutOfRange("head_dim", absl::StrCat(head_dim), "even numbers from 2 to 512");
  }
  FQ_RETURN_IF_ERROR(CheckInt("num_attention_heads * head_dim", q_size(), 1, kMaxWidth));
  FQ_RETURN_IF_ERROR(CheckInt("vocab_size", vocab_size, 1, kMaxTokens));
  FQ_RETURN_IF_ERROR(CheckInt("max_position_embeddings", max_context, 1, kMaxTokens));
  FQ_RETURN_IF_ERROR(CheckInt("sliding_window", sliding_window, 0, kMaxTokens));
  FQ_RETURN_IF_ERROR(CheckReal("rms_norm_eps", rms_norm_eps, 1e-12, 0.1));
  FQ_RETURN_IF_ERROR(CheckReal("rope_theta", rope.theta, 1.0, 1e12));
  FQ_RETURN_IF_ERROR(CheckReal("rope_scaling.factor", rope.factor, 1e-3, 1e6));
  if (rope.scaling == RopeScaling::kLlama3) {
    FQ_RETURN_IF_ERROR(CheckReal("rope_scaling.low_freq_factor", rope.low_freq_factor, 1e-3, 1e6));
    FQ_RETURN_IF_ERROR(CheckReal("rope_scaling.high_freq_factor", rope.high_freq_factor,
                                 std::nextafter(rope.low_freq_factor, 1e9), 1e6));
    FQ_RETURN_IF_ERROR(
        CheckInt("rope_scaling.original_max_position_embeddings", rope.original_max_position, 1, kMaxTokens));
  }
  const size_t num_divisors = rope.frequency_divisors.size();
  if (num_divisors != 0 && num_divisors != static_cast<size_t>(head_dim / 2)) {
    return OutOfRange("the number of rope_frequency_divisors", absl::StrCat(num_divisors),
                      absl::StrCat("0 or head_dim / 2, ", head_dim / 2));
  }
  for (const float divisor : rope.frequency_divisors) {
    FQ_RETURN_IF_ERROR(CheckReal("rope_frequency_divisors", static_cast<double>(divisor), 1e-6, 1e9));
  }
  if (eos_token_ids.size() > kMaxEosTokens) {
    return OutOfRange("the number of eos_token_id", absl::StrCat(eos_token_ids.size()),
                      absl::StrCat("0 to ", kMaxEosTokens));
  }
  for (const uint32_t id : eos_token_ids) {
    FQ_RETURN_IF_ERROR(CheckInt("eos_token_id", id, 0, vocab_size - 1));
  }
  return CheckInt("bos_token_id", bos_token_id, -1, vocab_size - 1);
}

uint64_t ModelConfig::NumParameters() const {
  const int64_t qkv = q_size() + 2 * kv_size();
  int64_t block = hidden_size * qkv + q_size() * hidden_size + 3 * hidden_size * intermediate_size + 2 * hidden_size;
  block += qkv_bias ? qkv : 0;
  block += o_bias ? hidden_size : 0;
  block += mlp_bias ? 2 * intermediate_size + hidden_size : 0;
  block += qk_norm ? 2 * head_dim : 0;
  return static_cast<uint64_t>(num_layers * block + hidden_size + (tied_head ? 1 : 2) * vocab_size * hidden_size);
}

absl::StatusOr<ModelConfig> ModelConfig::FromJson(const std::string& json_text) {
  if (json_text.size() > kMaxJsonBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("config.json has ", json_text.size(), " bytes; allowed: at most ", kMaxJsonBytes));
  }
  const Json root = Json::parse(json_text, nullptr, /*allow_exceptions=*/false);
  if (!root.is_object()) {
    return absl::InvalidArgumentError("config.json is not a JSON object");
  }
  const Fields fields(root, "config.json");
  ModelConfig config;
  FQ_RETURN_IF_ERROR(ReadFamily(fields, &config.family));
  FQ_RETURN_IF_ERROR(fields.String("_name_or_path", &config.name));
  std::string activation = "silu";
  FQ_RETURN_IF_ERROR(fields.String("hidden_act", &activation));
  if (activation != "silu") {
    return absl::UnimplementedError(absl::StrCat("config.json: hidden_act is \"", activation, "\"; supported: silu"));
  }
  FQ_RETURN_IF_ERROR(ReadShape(fields, &config));
  FQ_RETURN_IF_ERROR(ReadSlidingWindow(fields, config, &config.sliding_window));
  config.rms_norm_eps = 1e-6;
  FQ_RETURN_IF_ERROR(fields.Real("rms_norm_eps", &config.rms_norm_eps));
  config.rope.original_max_position = config.max_context;
  FQ_RETURN_IF_ERROR(ReadRope(fields, &config.rope));
  FQ_RETURN_IF_ERROR(fields.Bool("tie_word_embeddings", &config.tied_head));
  FQ_RETURN_IF_ERROR(ReadBiases(fields, &config));
  FQ_RETURN_IF_ERROR(ReadTokenIds(fields, &config));
  FQ_RETURN_IF_ERROR(config.Validate());
  return config;
}

std::string ModelConfig::ToJson() const {
  Json root = {{"architectures", Json::array({std::string(ArchitectureName(family))})},
               {"model_type", family},
               {"hidden_act", "silu"},
               {"hidden_size", hidden_size},
               {"intermediate_size", intermediate_size},
               {"num_hidden_layers", num_layers},
               {"num_attention_heads", num_heads},
               {"num_key_value_heads", num_kv_heads},
               {"head_dim", head_dim},
               {"vocab_size", vocab_size},
               {"max_position_embeddings", max_context},
               {"rms_norm_eps", rms_norm_eps},
               {"rope_theta", rope.theta},
               {"rope_scaling", nullptr},
               {"sliding_window", nullptr},
               {"tie_word_embeddings", tied_head},
               {"attention_bias", qkv_bias},
               {"attention_out_bias", o_bias},
               {"mlp_bias", mlp_bias},
               {"use_qk_norm", qk_norm},
               {"eos_token_id", eos_token_ids},
               {"bos_token_id", nullptr}};
  if (!name.empty()) {
    root["_name_or_path"] = name;
  }
  if (bos_token_id >= 0) {
    root["bos_token_id"] = bos_token_id;
  }
  if (sliding_window > 0) {
    root["sliding_window"] = sliding_window;
    root["use_sliding_window"] = true;
    root["max_window_layers"] = 0;
  }
  if (rope.scaling == RopeScaling::kLinear) {
    root["rope_scaling"] = {{"rope_type", "linear"}, {"factor", rope.factor}};
  } else if (rope.scaling == RopeScaling::kLlama3) {
    root["rope_scaling"] = {{"rope_type", "llama3"},
                            {"factor", rope.factor},
                            {"low_freq_factor", rope.low_freq_factor},
                            {"high_freq_factor", rope.high_freq_factor},
                            {"original_max_position_embeddings", rope.original_max_position}};
  }
  if (!rope.frequency_divisors.empty()) {
    root["rope_frequency_divisors"] = rope.frequency_divisors;
  }
  // A name in the source may hold any bytes; invalid UTF-8 must not throw.
  return root.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace flexquant
