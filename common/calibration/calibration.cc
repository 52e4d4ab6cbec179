#include "common/calibration/calibration.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/calibration/requirement_json.h"
#include "common/json_fields.h"
#include "common/status_macros.h"

namespace flexquant {
namespace {

using Json = nlohmann::ordered_json;

constexpr char kRemedy[] = "calibrate the package again with `flexquant calibrate`";
constexpr char kChecksumKind[] = "xxh3-128:";
constexpr double kAnyNumber = std::numeric_limits<double>::max();

// One digit a layer group.
std::string BitsText(const PrecisionPlan& plan) {
  std::string text;
  for (const uint8_t bits : plan.bits) {
    text += static_cast<char>('0' + bits);
  }
  return text;
}

Json SensitivityJson(const GroupSensitivity& group, const std::string& name) {
  Json json = {{"group", name}};
  for (size_t w = 0; w < kLowerPrecisions.size(); ++w) {
    json["mean_kl"].push_back(group[w].mean_kl);
    json[absl::StrCat("bucket_kl_", kLowerPrecisions[w])] = group[w].bucket_kl;
  }
  return json;
}

absl::StatusOr<GroupSensitivity> ReadSensitivity(const JsonFields& fields, const std::string& name) {
  FQ_ASSIGN_OR_RETURN(const std::string group, fields.String("group"));
  if (group != name) {
    return fields.Error("group", absl::StrCat("is \"", group, "\", expected \"", name, "\""));
  }
  GroupSensitivity sensitivity;
  FQ_ASSIGN_OR_RETURN(const std::vector<double> mean_kl, fields.Numbers("mean_kl", kLowerPrecisions.size()));
  for (size_t w = 0; w < kLowerPrecisions.size(); ++w) {
    sensitivity[w].mean_kl = mean_kl[w];
    FQ_ASSIGN_OR_RETURN(const std::vector<double> bucket_kl,
                        fields.Numbers(absl::StrCat("bucket_kl_", kLowerPrecisions[w]), kEntropyBuckets));
    std::copy(bucket_kl.begin(), bucket_kl.end(), sensitivity[w].bucket_kl.begin());
  }
  return sensitivity;
}

Json RungJson(const Rung& rung) {
  return {{"bits", BitsText(rung.plan)},           {"bytes", rung.bytes},
          {"predicted_kl", rung.predicted_kl},     {"mean_kl", rung.mean_kl},
          {"median_kl", rung.median_kl},           {"p99_kl", rung.p99_kl},
          {"top1_agreement", rung.top1_agreement}, {"perplexity", rung.perplexity}};
}

absl::StatusOr<Rung> ReadRung(const JsonFields& fields, size_t num_layer_groups) {
  Rung rung;
  FQ_ASSIGN_OR_RETURN(const std::string bits, fields.String("bits"));
  for (const char digit : bits) {
    rung.plan.bits.push_back(static_cast<uint8_t>(digit - '0'));
  }
  if (const absl::Status valid = rung.plan.Validate(static_cast<int>(num_layer_groups), false); !valid.ok()) {
    return fields.Error("bits", absl::StrCat("is not a plan: ", std::string(valid.message())));
  }
  FQ_ASSIGN_OR_RETURN(rung.bytes, fields.Count("bytes"));
  FQ_ASSIGN_OR_RETURN(rung.predicted_kl, fields.Number("predicted_kl", kAnyNumber));
  FQ_ASSIGN_OR_RETURN(rung.mean_kl, fields.Number("mean_kl", kAnyNumber));
  FQ_ASSIGN_OR_RETURN(rung.median_kl, fields.Number("median_kl", kAnyNumber));
  FQ_ASSIGN_OR_RETURN(rung.p99_kl, fields.Number("p99_kl", kAnyNumber));
  FQ_ASSIGN_OR_RETURN(rung.top1_agreement, fields.Number("top1_agreement", 1));
  FQ_ASSIGN_OR_RETURN(rung.perplexity, fields.Number("perplexity", kAnyNumber));
  return rung;
}

absl::Status CheckConstants(const JsonFields& fields) {
  FQ_ASSIGN_OR_RETURN(const uint64_t version, fields.Count("format_version"));
  if (version > kCalibrationFormatVersion) {
    return fields.Error("format_version", absl::StrCat("is ", version, ", this program reads up to ",
                                                       kCalibrationFormatVersion, ": a newer FlexQuant wrote it"));
  }
  if (version != kCalibrationFormatVersion) {
    return fields.Error("format_version", absl::StrCat("is ", version, ", this program reads ",
                                                       kCalibrationFormatVersion, ": an older FlexQuant wrote it"));
  }
  FQ_ASSIGN_OR_RETURN(const std::vector<uint64_t> widths, fields.Counts("precisions", kLowerPrecisions.size()));
  if (!std::equal(widths.begin(), widths.end(), kLowerPrecisions.begin(),
                  [](uint64_t a, int b) { return a == static_cast<uint64_t>(b); })) {
    return fields.Error("precisions", "is not [3, 4, 5, 6]");
  }
  FQ_ASSIGN_OR_RETURN(const std::vector<double> edges,
                      fields.Numbers("entropy_bucket_edges", kEntropyBucketEdges.size()));
  if (!std::equal(edges.begin(), edges.end(), kEntropyBucketEdges.begin())) {
    return fields.Error("entropy_bucket_edges", "is not [0.25, 1, 2, 4]");
  }
  return absl::OkStatus();
}

absl::Status ReadProvenance(const JsonFields& fields, Calibration* calibration) {
  FQ_ASSIGN_OR_RETURN(calibration->flexquant_version, fields.String("flexquant_version"));
  FQ_ASSIGN_OR_RETURN(calibration->model_revision, fields.String("model_revision"));
  FQ_ASSIGN_OR_RETURN(calibration->text_name, fields.String("text"));
  FQ_ASSIGN_OR_RETURN(const std::string checksum, fields.String("text_checksum"));
  if (checksum.rfind(kChecksumKind, 0) != 0 || checksum.size() != sizeof(kChecksumKind) - 1 + 32) {
    return fields.Error("text_checksum", absl::StrCat("is \"", checksum, "\", not xxh3-128:<32 hex digits>"));
  }
  calibration->text_checksum = checksum.substr(sizeof(kChecksumKind) - 1);
  FQ_ASSIGN_OR_RETURN(calibration->window, fields.Count("window"));
  FQ_ASSIGN_OR_RETURN(calibration->positions, fields.Count("positions"));
  FQ_ASSIGN_OR_RETURN(calibration->holdout_positions, fields.Count("holdout_positions"));
  FQ_ASSIGN_OR_RETURN(const std::vector<uint64_t> buckets, fields.Counts("bucket_positions", kEntropyBuckets));
  std::copy(buckets.begin(), buckets.end(), calibration->bucket_positions.begin());
  if (std::accumulate(buckets.begin(), buckets.end(), uint64_t{0}) != calibration->positions) {
    return fields.Error("bucket_positions", absl::StrCat("does not add up to positions, ", calibration->positions));
  }
  return absl::OkStatus();
}

constexpr char kBackendLoss[] = "backend_kl";
// Its numbers; what was not measured is left out.
constexpr std::pair<const char*, std::optional<double> BackendLoss::*> kBackendLosses[] = {
    {"prompt_activations_8", &BackendLoss::coarse_prompts}, {"kv_cache_8", &BackendLoss::kv_cache_8}};

Json BackendLossJson(const BackendLoss& loss) {
  Json json = Json::object();
  for (const auto& [name, member] : kBackendLosses) {
    if ((loss.*member).has_value()) {
      json[name] = *(loss.*member);
    }
  }
  return json;
}

absl::StatusOr<BackendLoss> ReadBackendLoss(const JsonFields& calibration) {
  BackendLoss loss;
  if (!calibration.Has(kBackendLoss)) {  // calibrated before it was measured
    return loss;
  }
  FQ_ASSIGN_OR_RETURN(const JsonFields fields, calibration.Object(kBackendLoss));
  for (const auto& [name, member] : kBackendLosses) {
    if (fields.Has(name)) {
      FQ_ASSIGN_OR_RETURN(loss.*member, fields.Number(name, kAnyNumber));
    }
  }
  return loss;
}

absl::Status CheckOrder(const std::vector<Rung>& rungs, const JsonFields& fields) {
  if (rungs.empty() ||
      rungs.back().plan != PrecisionPlan::Uniform(kTopPrecision, static_cast<int>(rungs.back().plan.bits.size()))) {
    return fields.Error("ladder", "does not end with the top precision");
  }
  for (size_t i = 1; i < rungs.size(); ++i) {
    if (rungs[i].bytes <= rungs[i - 1].bytes || rungs[i].mean_kl >= rungs[i - 1].mean_kl) {
      return fields.Error(absl::StrCat("ladder[", i, "]"), "does not cost more bytes and less KL than the rung before");
    }
    const std::vector<uint8_t>& bits = rungs[i].plan.bits;
    const std::vector<uint8_t>& before = rungs[i - 1].plan.bits;
    if (bits == before || !std::equal(bits.begin(), bits.end(), before.begin(), std::greater_equal<>())) {
      return fields.Error(absl::StrCat("ladder[", i, "].bits"),
                          "has fewer bits somewhere than the rung before, or none more");
    }
  }
  return absl::OkStatus();
}

}  // namespace

size_t EntropyBucket(double entropy_nats) {
  return static_cast<size_t>(std::upper_bound(kEntropyBucketEdges.begin(), kEntropyBucketEdges.end(), entropy_nats) -
                             kEntropyBucketEdges.begin());
}

std::string Calibration::ToJson() const {
  Json json;
  json["format_version"] = kCalibrationFormatVersion;
  json["flexquant_version"] = flexquant_version;
  json["model_revision"] = model_revision;
  json["text"] = text_name;
  json["text_checksum"] = kChecksumKind + text_checksum;
  json["window"] = window;
  json["positions"] = positions;
  json["holdout_positions"] = holdout_positions;
  json["precisions"] = kLowerPrecisions;
  json["entropy_bucket_edges"] = kEntropyBucketEdges;
  json["bucket_positions"] = bucket_positions;
  json["sensitivity"] = Json::array();
  const int num_layers = (static_cast<int>(sensitivities.size()) - 1) / kLayerGroupsPerBlock;
  for (size_t group = 0; group < sensitivities.size(); ++group) {
    json["sensitivity"].push_back(
        SensitivityJson(sensitivities[group], LayerGroupName(static_cast<int>(group), num_layers)));
  }
  json["ladder"] = Json::array();
  for (const Rung& rung : rungs) {
    json["ladder"].push_back(RungJson(rung));
  }
  json["requirements"] = Json::array();
  for (size_t lookahead = 0; lookahead < requirements.size(); ++lookahead) {
    json["requirements"].push_back(RequirementJson(requirements[lookahead], static_cast<int>(lookahead)));
  }
  json[kBackendLoss] = BackendLossJson(backend_loss);
  return json.dump(2, ' ', false, Json::error_handler_t::replace);
}

absl::StatusOr<Calibration> Calibration::FromJson(const std::string& text, const std::string& path) {
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": field \"calibration\" is not a JSON object; ", kRemedy));
  }
  const JsonFields fields(json, path, "calibration.", kRemedy);
  FQ_RETURN_IF_ERROR(CheckConstants(fields));
  Calibration calibration;
  FQ_RETURN_IF_ERROR(ReadProvenance(fields, &calibration));
  FQ_ASSIGN_OR_RETURN(const std::vector<JsonFields> groups, fields.Objects("sensitivity"));
  if (groups.size() % kLayerGroupsPerBlock != 1) {
    return fields.Error("sensitivity",
                        absl::StrCat("has ", groups.size(), " layer groups; a model has 4 a block and 1"));
  }
  const int num_layers = static_cast<int>(groups.size()) / kLayerGroupsPerBlock;
  for (const JsonFields& group : groups) {
    const auto index = static_cast<int>(calibration.sensitivities.size());
    FQ_ASSIGN_OR_RETURN(const GroupSensitivity sensitivity, ReadSensitivity(group, LayerGroupName(index, num_layers)));
    calibration.sensitivities.push_back(sensitivity);
  }
  FQ_ASSIGN_OR_RETURN(const std::vector<JsonFields> rungs, fields.Objects("ladder"));
  for (const JsonFields& rung : rungs) {
    FQ_ASSIGN_OR_RETURN(Rung read, ReadRung(rung, groups.size()));
    calibration.rungs.push_back(std::move(read));
  }
  FQ_RETURN_IF_ERROR(CheckOrder(calibration.rungs, fields));
  FQ_ASSIGN_OR_RETURN(const std::vector<JsonFields> requirements, fields.Objects("requirements"));
  if (requirements.size() != calibration.requirements.size()) {
    return fields.Error("requirements", absl::StrCat("has ", requirements.size(), " entries, expected ",
                                                     calibration.requirements.size()));
  }
  for (size_t lookahead = 0; lookahead < requirements.size(); ++lookahead) {
    FQ_ASSIGN_OR_RETURN(
        calibration.requirements[lookahead],
        ReadRequirement(requirements[lookahead], static_cast<int>(lookahead), calibration.rungs.size()));
  }
  FQ_ASSIGN_OR_RETURN(calibration.backend_loss, ReadBackendLoss(fields));
  return calibration;
}

absl::Status Calibration::CheckFits(const std::string& revision, int num_layer_groups, const std::string& path) const {
  if (model_revision != revision) {
    return absl::FailedPreconditionError(absl::StrCat(path, ": the calibration is of model revision ", model_revision,
                                                      ", the package's weights are ", revision, "; ", kRemedy));
  }
  if (sensitivities.size() != static_cast<size_t>(num_layer_groups)) {
    return absl::FailedPreconditionError(absl::StrCat(path, ": the calibration has ", sensitivities.size(),
                                                      " layer groups, the model ", num_layer_groups, "; ", kRemedy));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::optional<Calibration>> CalibrationOfManifest(const std::string& manifest_json,
                                                                 const std::string& path, const std::string& revision,
                                                                 int num_layer_groups) {
  const Json json = Json::parse(manifest_json, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(path, " is not a JSON object; convert the model again"));
  }
  const auto it = json.find("calibration");
  if (it == json.end() || it->is_null()) {
    return std::nullopt;
  }
  FQ_ASSIGN_OR_RETURN(Calibration calibration, Calibration::FromJson(it->dump(), path));
  FQ_RETURN_IF_ERROR(calibration.CheckFits(revision, num_layer_groups, path));
  return calibration;
}

}  // namespace flexquant
