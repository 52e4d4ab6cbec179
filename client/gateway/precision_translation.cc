#include "client/gateway/precision_translation.h"

#include <algorithm>
#include <array>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "client/gateway/openai_error.h"
#include "common/status_macros.h"
#include "proto/grpc_status.h"

namespace flexquant::gateway {
namespace {

constexpr char kChoices[] = "max_mean_kl, target_mean_bits, bits, plan, policy and layer_bits";

void SetPolicyByName(JsonFields& fields, const std::string& name, v1::PrecisionPolicy& policy) {
  if (name == "dynamic") {
    policy.mutable_dynamic();
  } else if (name == "random") {
    policy.mutable_random();
  } else if (name == "position") {
    policy.mutable_position();
  } else {
    fields.Fail("policy", absl::StrCat("'", Shortened(name, 40), "' is not dynamic, random or position"));
  }
}

void SetLayerBits(JsonFields& fields, const Json& list, v1::PrecisionPolicy& policy) {
  constexpr uint64_t kMaxBits = 16;
  v1::LayerGroupPlan& plan = *policy.mutable_layer_group_plan();
  bool good = list.is_array();
  for (size_t i = 0; good && i < list.size(); ++i) {
    good = list[i].is_number_unsigned() && list[i].get<uint64_t>() <= kMaxBits;
    if (good) {
      plan.add_bits(list[i].get<uint32_t>());
    }
  }
  if (!good) {
    fields.Fail("layer_bits", "must be a list with the bits of each layer group");
  }
}

absl::Status TranslatePrecision(const Json& json, const std::string& path, v1::PrecisionPolicy& policy) {
  JsonFields fields(json, path);
  int given = 0;
  double number = 0;
  uint32_t bits = 0;
  std::string name;
  if (fields.Get("max_mean_kl", &number)) {
    policy.set_max_mean_kl(number);
    ++given;
  }
  if (fields.Get("target_mean_bits", &number)) {
    policy.set_target_mean_bits(number);
    ++given;
  }
  if (fields.Get("bits", &bits)) {
    policy.set_fixed_bits(bits);
    ++given;
  }
  if (fields.Get("plan", &name)) {
    policy.set_named_plan(name);
    ++given;
  }
  if (fields.Get("policy", &name)) {
    SetPolicyByName(fields, name, policy);
    ++given;
  }
  if (const Json* list = fields.Find("layer_bits")) {
    SetLayerBits(fields, *list, policy);
    ++given;
  }
  if (fields.Get("min_bits", &bits)) {
    policy.set_min_bits(bits);
  }
  if (fields.Get("max_bits", &bits)) {
    policy.set_max_bits(bits);
  }
  FQ_RETURN_IF_ERROR(fields.Finish());
  if (given != 1) {
    return BadParameter(path.substr(0, path.size() - 1), absl::StrCat("has ", given, " of ", kChoices, "; give one"));
  }
  return absl::OkStatus();
}

// What a header's value is as JSON: a number where it reads as one.
Json ValueOf(absl::string_view text) {
  Json value = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  return value.is_number() ? value : Json(std::string(text));
}

}  // namespace

absl::Status TranslateExtension(const Json& extension, v1::GenerateRequest& request, TranslatedRequest& translated) {
  JsonFields fields(extension, "flexquant.");
  if (const Json* precision = fields.Find("precision")) {
    FQ_RETURN_IF_ERROR(TranslatePrecision(*precision, "flexquant.precision.", *request.mutable_precision()));
  }
  std::string mode;
  if (fields.Get("batch_mode", &mode)) {
    if (mode == "shared" || mode == "isolated") {
      request.set_batch_mode(mode == "shared" ? v1::BATCH_MODE_SHARED : v1::BATCH_MODE_ISOLATED);
    } else {
      fields.Fail("batch_mode", absl::StrCat("'", Shortened(mode, 40), "' is not shared or isolated"));
    }
  }
  fields.Get("token_details", &translated.token_details);
  return fields.Finish();
}

absl::Status TranslatePrecisionHeader(absl::string_view header, v1::PrecisionPolicy& policy) {
  constexpr char kName[] = "x-flexquant-precision";
  Json json = Json::object();
  for (const absl::string_view part : absl::StrSplit(header, ';', absl::SkipWhitespace())) {
    const std::pair<absl::string_view, absl::string_view> split = absl::StrSplit(part, absl::MaxSplits('=', 1));
    const std::string name(absl::StripAsciiWhitespace(split.first));
    const absl::string_view value = absl::StripAsciiWhitespace(split.second);
    // A plan goes by its name, digits or not; a list does not fit into a header.
    constexpr std::array kNames = {"max_mean_kl", "target_mean_bits", "bits", "plan", "policy", "min_bits", "max_bits"};
    if (std::find(kNames.begin(), kNames.end(), name) == kNames.end() || value.empty() || json.contains(name)) {
      return BadParameter(kName, absl::StrCat("'", Shortened(absl::CHexEscape(part), 40),
                                              "' is not NAME=VALUE with one of max_mean_kl, target_mean_bits, bits, "
                                              "plan, policy, min_bits and max_bits, each once"));
    }
    json[name] = name == "plan" || name == "policy" ? Json(std::string(value)) : ValueOf(value);
  }
  return TranslatePrecision(json, absl::StrCat(kName, "."), policy);
}

}  // namespace flexquant::gateway
