#include "common/calibration/requirement_json.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace flexquant {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kAnyNumber = std::numeric_limits<double>::max();
constexpr double kMaxCoefficient = 1000;

absl::StatusOr<RequirementModel> ReadModel(const JsonFields& fields, size_t num_rungs) {
  RequirementModel model;
  FQ_ASSIGN_OR_RETURN(const auto mean, fields.SignedNumbers("feature_mean", kRequirementFeatures, kMaxCoefficient));
  FQ_ASSIGN_OR_RETURN(const auto scale, fields.Numbers("feature_scale", kRequirementFeatures));
  if (std::any_of(scale.begin(), scale.end(), [](double value) { return value <= 0; })) {
    return fields.Error("feature_scale", "is not positive");
  }
  std::copy(mean.begin(), mean.end(), model.mean.begin());
  std::copy(scale.begin(), scale.end(), model.scale.begin());
  FQ_ASSIGN_OR_RETURN(const auto rungs, fields.Objects("rungs"));
  if (rungs.size() + 1 != num_rungs) {
    return fields.Error(
        "rungs", absl::StrCat("has ", rungs.size(), " entries; a ladder of ", num_rungs, " needs ", num_rungs - 1));
  }
  for (const JsonFields& rung : rungs) {
    FQ_ASSIGN_OR_RETURN(const auto read, rung.SignedNumbers("log_kl", 1 + kRequirementFeatures, kMaxCoefficient));
    std::copy(read.begin(), read.end(), model.rungs.emplace_back().begin());
  }
  return model;
}

absl::Status ReadCurve(const JsonFields& fields, std::vector<CurvePoint>& curve) {
  FQ_ASSIGN_OR_RETURN(const auto points, fields.Objects("curve"));
  for (const JsonFields& point : points) {
    CurvePoint read;
    FQ_ASSIGN_OR_RETURN(read.lambda, point.Number("lambda", kAnyNumber));
    FQ_ASSIGN_OR_RETURN(read.mean_bytes, point.Number("mean_bytes", kAnyNumber));
    FQ_ASSIGN_OR_RETURN(read.predicted_kl, point.Number("predicted_kl", kAnyNumber));
    FQ_ASSIGN_OR_RETURN(read.measured_kl, point.Number("measured_kl", kAnyNumber));
    if (read.lambda <= (curve.empty() ? 0 : curve.back().lambda)) {
      return point.Error("lambda", "is not above 0 and the point before");
    }
    if (!curve.empty() &&
        (read.mean_bytes < curve.back().mean_bytes || read.predicted_kl > curve.back().predicted_kl)) {
      return point.Error("lambda", "buys fewer bytes or more predicted KL than the point before");
    }
    curve.push_back(read);
  }
  return curve.empty() ? fields.Error("curve", "is empty") : absl::OkStatus();
}

absl::Status ReadAims(const JsonFields& fields, std::vector<AimPoint>& aims) {
  FQ_ASSIGN_OR_RETURN(const auto points, fields.Objects("aims"));
  for (const JsonFields& point : points) {
    AimPoint read;
    FQ_ASSIGN_OR_RETURN(read.aim_kl, point.Number("aim_kl", kAnyNumber));
    FQ_ASSIGN_OR_RETURN(read.mean_bytes, point.Number("mean_bytes", kAnyNumber));
    FQ_ASSIGN_OR_RETURN(read.mean_kl, point.Number("mean_kl", kAnyNumber));
    FQ_ASSIGN_OR_RETURN(read.p95_kl, point.Number("p95_kl", kAnyNumber));
    if (read.aim_kl <= (aims.empty() ? 0 : aims.back().aim_kl)) {
      return point.Error("aim_kl", "is not above 0 and the point before");
    }
    aims.push_back(read);
  }
  return aims.empty() ? fields.Error("aims", "is empty") : absl::OkStatus();
}

}  // namespace

nlohmann::ordered_json RequirementJson(const PrecisionRequirement& requirement, int lookahead) {
  Json json = {{"lookahead", lookahead},
               {"feature_mean", requirement.model.mean},
               {"feature_scale", requirement.model.scale},
               {"rungs", Json::array()},
               {"curve", Json::array()},
               {"aims", Json::array()}};
  for (const auto& rung : requirement.model.rungs) {
    json["rungs"].push_back({{"log_kl", rung}});
  }
  for (const CurvePoint& point : requirement.curve) {
    json["curve"].push_back({{"lambda", point.lambda},
                             {"mean_bytes", point.mean_bytes},
                             {"predicted_kl", point.predicted_kl},
                             {"measured_kl", point.measured_kl}});
  }
  for (const AimPoint& point : requirement.aims) {
    json["aims"].push_back({{"aim_kl", point.aim_kl},
                            {"mean_bytes", point.mean_bytes},
                            {"mean_kl", point.mean_kl},
                            {"p95_kl", point.p95_kl}});
  }
  return json;
}

absl::StatusOr<PrecisionRequirement> ReadRequirement(const JsonFields& fields, int lookahead, size_t num_rungs) {
  FQ_ASSIGN_OR_RETURN(const uint64_t read, fields.Count("lookahead"));
  if (read != static_cast<uint64_t>(lookahead)) {
    return fields.Error("lookahead", absl::StrCat("is ", read, ", expected ", lookahead));
  }
  PrecisionRequirement requirement;
  FQ_ASSIGN_OR_RETURN(requirement.model, ReadModel(fields, num_rungs));
  FQ_RETURN_IF_ERROR(ReadCurve(fields, requirement.curve));
  FQ_RETURN_IF_ERROR(ReadAims(fields, requirement.aims));
  return requirement;
}

}  // namespace flexquant
