#include "controller/policy/policy_factory.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/status_macros.h"
#include "controller/policy/policies.h"
#include "controller/policy/requirement_policy.h"
#include "proto/grpc_status.h"

namespace flexquant::controller {
namespace {

constexpr uint32_t kDefaultTokensPerLevel = 16;
constexpr double kDefaultMaxMeanKl = 0.01;
constexpr double kMaxEntropyNats = 20;
constexpr double kMaxHysteresisLevels = 4;

std::string PrecisionList() { return absl::StrJoin(kPrecisions, ", "); }

bool HasBounds(const v1::PrecisionPolicy& request) { return request.has_min_bits() || request.has_max_bits(); }

absl::Status CheckBound(absl::string_view field, uint32_t bits) {
  if (IsQuantizedPrecision(static_cast<int>(std::min(bits, 64U)))) {
    return absl::OkStatus();
  }
  return FieldViolation(field,
                        absl::StrCat(bits, " is not a precision; use one of ", PrecisionList(), ", or leave it unset"));
}

absl::Status RejectBounds(const v1::PrecisionPolicy& request, absl::string_view policy) {
  if (!HasBounds(request)) {
    return absl::OkStatus();
  }
  return FieldViolation(
      request.has_min_bits() ? "precision.min_bits" : "precision.max_bits",
      absl::StrCat("bounds do not apply to ", policy, "; leave them unset, or choose a policy that moves"));
}

// Fills in both bounds and returns the levels between them.
absl::StatusOr<Ladder> BoundedLadder(const v1::PrecisionPolicy& request, const PolicyContext& context,
                                     v1::PrecisionPolicy& effective) {
  const auto min_bits = request.has_min_bits() ? request.min_bits() : static_cast<uint32_t>(kPrecisions.front());
  const auto max_bits = request.has_max_bits() ? request.max_bits() : static_cast<uint32_t>(kTopPrecision);
  FQ_RETURN_IF_ERROR(CheckBound("precision.min_bits", min_bits));
  FQ_RETURN_IF_ERROR(CheckBound("precision.max_bits", max_bits));
  if (min_bits > max_bits) {
    return FieldViolation("precision.max_bits", absl::StrCat(max_bits, " is below min_bits ", min_bits,
                                                             "; raise max_bits or lower min_bits"));
  }
  Ladder ladder = context.ladder.Restricted(static_cast<int>(min_bits), static_cast<int>(max_bits));
  if (ladder.levels.empty()) {
    return FieldViolation("precision.min_bits", absl::StrCat("no level of the model's ladder lies between ", min_bits,
                                                             " and ", max_bits, " bits; widen the bounds"));
  }
  effective.set_min_bits(min_bits);
  effective.set_max_bits(max_bits);
  return ladder;
}

absl::StatusOr<ResolvedPolicy> MakeFixed(const v1::PrecisionPolicy& request, const PolicyContext& context) {
  FQ_RETURN_IF_ERROR(RejectBounds(request, "fixed_bits"));
  const uint32_t bits = request.fixed_bits();
  const bool is_reference = bits == static_cast<uint32_t>(kReferencePrecision);
  if (is_reference && !context.has_reference) {
    return FieldViolation(
        "precision.fixed_bits",
        absl::StrCat("16 needs the unquantised reference, which this model was converted without; use "
                     "one of ",
                     PrecisionList(), ", or convert it again with --keep-reference"));
  }
  if (!is_reference && !IsQuantizedPrecision(static_cast<int>(std::min(bits, 64U)))) {
    return FieldViolation("precision.fixed_bits",
                          absl::StrCat(bits, " is not a precision of this model; use one of ", PrecisionList(),
                                       context.has_reference ? ", or 16 for the unquantised reference" : ""));
  }
  const PrecisionPlan plan = PrecisionPlan::Uniform(static_cast<int>(bits), context.num_layer_groups);
  ResolvedPolicy resolved;
  resolved.policy = std::make_unique<StaticPolicy>(plan, "fixed");
  if (is_reference) {
    resolved.prefill_plan = plan;
  }
  resolved.effective.set_fixed_bits(bits);
  return resolved;
}

absl::StatusOr<ResolvedPolicy> MakeNamed(const v1::PrecisionPolicy& request, const PolicyContext& context) {
  FQ_RETURN_IF_ERROR(RejectBounds(request, "named_plan"));
  std::vector<absl::string_view> names;
  for (const NamedPrecisionPlan& named : context.named_plans) {
    names.push_back(named.name);
  }
  if (request.named_plan().empty()) {
    return FieldViolation("precision.named_plan", absl::StrCat("empty; use one of ", absl::StrJoin(names, ", ")));
  }
  const auto found = std::find_if(context.named_plans.begin(), context.named_plans.end(),
                                  [&](const NamedPrecisionPlan& named) { return named.name == request.named_plan(); });
  if (found == context.named_plans.end()) {
    return WithErrorInfo(absl::NotFoundError(absl::StrCat("precision.named_plan: no plan is called '",
                                                          absl::CHexEscape(request.named_plan().substr(0, 128)),
                                                          "'; use one of ", absl::StrJoin(names, ", "))),
                         "PLAN_NOT_FOUND");
  }
  ResolvedPolicy resolved;
  resolved.policy = std::make_unique<StaticPolicy>(found->plan, "plan");
  resolved.effective.set_named_plan(found->name);
  return resolved;
}

absl::StatusOr<ResolvedPolicy> MakeLayerGroupPlan(const v1::PrecisionPolicy& request, const PolicyContext& context) {
  FQ_RETURN_IF_ERROR(RejectBounds(request, "layer_group_plan"));
  const auto& bits = request.layer_group_plan().bits();
  if (bits.size() != context.num_layer_groups) {
    return FieldViolation("precision.layer_group_plan.bits",
                          absl::StrCat(bits.size(), " values; the model has ", context.num_layer_groups,
                                       " layer groups: give one for each, in the order of ServerInfo.layer_groups"));
  }
  PrecisionPlan plan;
  for (int group = 0; group < bits.size(); ++group) {
    if (!IsQuantizedPrecision(static_cast<int>(std::min(bits[group], 64U)))) {
      return FieldViolation(
          absl::StrCat("precision.layer_group_plan.bits[", group, "]"),
          absl::StrCat(bits[group], " is not a precision of this model; use one of ", PrecisionList()));
    }
    plan.bits.push_back(static_cast<uint8_t>(bits[group]));
  }
  ResolvedPolicy resolved;
  resolved.policy = std::make_unique<StaticPolicy>(std::move(plan), "plan");
  *resolved.effective.mutable_layer_group_plan() = request.layer_group_plan();
  return resolved;
}

absl::StatusOr<ResolvedPolicy> MakeDynamic(const v1::PrecisionPolicy& request, const PolicyContext& context) {
  ResolvedPolicy resolved;
  FQ_ASSIGN_OR_RETURN(Ladder ladder, BoundedLadder(request, context, resolved.effective));
  const v1::DynamicPolicy& dynamic = request.dynamic();
  DynamicPolicy::Params params;
  // Written so that NaN fails every comparison.
  if (dynamic.has_pple_weight()) {
    params.pple_weight = dynamic.pple_weight();
    if (!(params.pple_weight > 0 && params.pple_weight <= 1)) {
      return FieldViolation("precision.dynamic.pple_weight",
                            absl::StrCat(params.pple_weight, " is outside (0, 1]; leave it unset for 0.3"));
    }
  }
  if (dynamic.has_entropy_high_nats()) {
    params.entropy_high_nats = dynamic.entropy_high_nats();
    if (!(params.entropy_high_nats > 0 && params.entropy_high_nats <= kMaxEntropyNats)) {
      return FieldViolation("precision.dynamic.entropy_high_nats",
                            absl::StrCat(params.entropy_high_nats, " is outside (0, 20]; leave it unset for 2"));
    }
  }
  if (dynamic.has_hysteresis_levels()) {
    params.hysteresis_levels = dynamic.hysteresis_levels();
    if (!(params.hysteresis_levels >= 0 && params.hysteresis_levels <= kMaxHysteresisLevels)) {
      return FieldViolation("precision.dynamic.hysteresis_levels",
                            absl::StrCat(params.hysteresis_levels, " is outside [0, 4]; leave it unset for 0.5"));
    }
  }
  v1::DynamicPolicy* effective = resolved.effective.mutable_dynamic();
  effective->set_pple_weight(params.pple_weight);
  effective->set_entropy_high_nats(params.entropy_high_nats);
  effective->set_hysteresis_levels(params.hysteresis_levels);
  resolved.policy = std::make_unique<DynamicPolicy>(std::move(ladder), params);
  return resolved;
}

absl::StatusOr<ResolvedPolicy> MakeRandom(const v1::PrecisionPolicy& request, const PolicyContext& context,
                                          uint64_t sampling_seed) {
  ResolvedPolicy resolved;
  FQ_ASSIGN_OR_RETURN(Ladder ladder, BoundedLadder(request, context, resolved.effective));
  const uint64_t seed = request.random().has_seed() ? request.random().seed() : sampling_seed;
  resolved.effective.mutable_random()->set_seed(seed);
  resolved.policy = std::make_unique<RandomPolicy>(std::move(ladder), seed);
  return resolved;
}

absl::StatusOr<ResolvedPolicy> MakePosition(const v1::PrecisionPolicy& request, const PolicyContext& context) {
  ResolvedPolicy resolved;
  FQ_ASSIGN_OR_RETURN(Ladder ladder, BoundedLadder(request, context, resolved.effective));
  uint32_t tokens_per_level = kDefaultTokensPerLevel;
  if (request.position().has_tokens_per_level()) {
    tokens_per_level = request.position().tokens_per_level();
    if (tokens_per_level == 0) {
      return FieldViolation("precision.position.tokens_per_level",
                            "0 is below 1; use at least 1, or leave it unset for 16");
    }
  }
  resolved.effective.mutable_position()->set_tokens_per_level(tokens_per_level);
  resolved.policy = std::make_unique<PositionPolicy>(std::move(ladder), tokens_per_level);
  return resolved;
}

absl::StatusOr<ResolvedPolicy> MakeRequirement(const v1::PrecisionPolicy& request, const PolicyContext& context,
                                               const PrecisionGoal& goal, const std::string& name) {
  ResolvedPolicy resolved;
  FQ_RETURN_IF_ERROR(BoundedLadder(request, context, resolved.effective).status());
  const auto [first, last] = context.calibrated->LevelsWithin(static_cast<int>(resolved.effective.min_bits()),
                                                              static_cast<int>(resolved.effective.max_bits()));
  resolved.policy =
      std::make_unique<RequirementPolicy>(context.calibrated, context.correction, first, last, goal, name);
  return resolved;
}

absl::Status RequireCalibrated(const PolicyContext& context, absl::string_view field) {
  if (context.calibrated != nullptr) {
    return absl::OkStatus();
  }
  return WithErrorInfo(
      absl::FailedPreconditionError(absl::StrCat(
          field,
          ": this model is not calibrated; calibrate its package with `flexquant calibrate` and start again, or "
          "use dynamic or fixed_bits")),
      "NOT_CALIBRATED");
}

absl::StatusOr<ResolvedPolicy> MakeMaxMeanKl(double budget, const v1::PrecisionPolicy& request,
                                             const PolicyContext& context) {
  if (!(budget > 0 && std::isfinite(budget))) {  // NaN too
    return FieldViolation("precision.max_mean_kl", absl::StrCat(budget,
                                                                " is not a finite number of nats above 0; 0.01 "
                                                                "is a good budget, fixed_bits 8 costs none"));
  }
  FQ_RETURN_IF_ERROR(RequireCalibrated(context, "precision.max_mean_kl"));
  const double aim = context.calibrated->requirement.SafeAim(budget);
  FQ_ASSIGN_OR_RETURN(ResolvedPolicy resolved,
                      MakeRequirement(request, context, {PrecisionGoal::Kind::kMeanKl, aim}, "max_mean_kl"));
  resolved.effective.set_max_mean_kl(budget);
  return resolved;
}

absl::StatusOr<ResolvedPolicy> MakeTargetMeanBits(const v1::PrecisionPolicy& request, const PolicyContext& context) {
  const double bits = request.target_mean_bits();
  if (!(bits >= kPrecisions.front() && bits <= kTopPrecision)) {
    return FieldViolation("precision.target_mean_bits",
                          absl::StrCat(bits, " is outside [", kPrecisions.front(), ", ", kTopPrecision, "]"));
  }
  FQ_RETURN_IF_ERROR(RequireCalibrated(context, "precision.target_mean_bits"));
  FQ_ASSIGN_OR_RETURN(
      ResolvedPolicy resolved,
      MakeRequirement(request, context, {PrecisionGoal::Kind::kMeanBytes, context.calibrated->BytesAt(bits)},
                      "target_mean_bits"));
  resolved.effective.set_target_mean_bits(bits);
  return resolved;
}

absl::StatusOr<ResolvedPolicy> MakeChosen(const v1::PrecisionPolicy& request, const PolicyContext& context,
                                          uint64_t sampling_seed) {
  switch (request.policy_case()) {
    case v1::PrecisionPolicy::kFixedBits:
      return MakeFixed(request, context);
    case v1::PrecisionPolicy::kNamedPlan:
      return MakeNamed(request, context);
    case v1::PrecisionPolicy::kLayerGroupPlan:
      return MakeLayerGroupPlan(request, context);
    case v1::PrecisionPolicy::kRandom:
      return MakeRandom(request, context, sampling_seed);
    case v1::PrecisionPolicy::kPosition:
      return MakePosition(request, context);
    case v1::PrecisionPolicy::kMaxMeanKl:
      return MakeMaxMeanKl(request.max_mean_kl(), request, context);
    case v1::PrecisionPolicy::kTargetMeanBits:
      return MakeTargetMeanBits(request, context);
    case v1::PrecisionPolicy::POLICY_NOT_SET:
      if (context.calibrated != nullptr) {
        return MakeMaxMeanKl(kDefaultMaxMeanKl, request, context);
      }
      break;
    case v1::PrecisionPolicy::kDynamic:
      break;
  }
  return MakeDynamic(request, context);
}

}  // namespace

absl::StatusOr<ResolvedPolicy> MakePolicy(const v1::PrecisionPolicy& request, const PolicyContext& context,
                                          uint64_t sampling_seed) {
  FQ_ASSIGN_OR_RETURN(ResolvedPolicy resolved, MakeChosen(request, context, sampling_seed));
  if (resolved.prefill_plan.bits.empty()) {
    resolved.prefill_plan = PrecisionPlan::Uniform(kTopPrecision, context.num_layer_groups);
  }
  return resolved;
}

}  // namespace flexquant::controller
