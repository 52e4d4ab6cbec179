#ifndef FLEXQUANT_CONTROLLER_POLICY_POLICY_FACTORY_H_
#define FLEXQUANT_CONTROLLER_POLICY_POLICY_FACTORY_H_

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "common/precision.h"
#include "controller/policy/policy_context.h"
#include "controller/policy/precision_policy.h"
#include "flexquant/v1/precision.pb.h"

namespace flexquant::controller {

// A policy ready to run.
struct ResolvedPolicy {
  std::unique_ptr<PrecisionPolicy> policy;
  PrecisionPlan prefill_plan;     // the top precision, or 16 for `fixed_bits` 16
  v1::PrecisionPolicy effective;  // parameters in force
};

// Checks `request` (an unset policy means max_mean_kl on a calibrated model, dynamic on another), fills in what is
// unset and makes the policy; `sampling_seed` seeds the random control if it has no seed of its own. INVALID_ARGUMENT
// with the field's path below "precision", its value, the allowed range and the remedy; NOT_FOUND for an unknown plan
// name; FAILED_PRECONDITION for a policy that needs a calibrated model.
absl::StatusOr<ResolvedPolicy> MakePolicy(const v1::PrecisionPolicy& request, const PolicyContext& context,
                                          uint64_t sampling_seed);

}  // namespace flexquant::controller

#endif  // FLEXQUANT_CONTROLLER_POLICY_POLICY_FACTORY_H_
