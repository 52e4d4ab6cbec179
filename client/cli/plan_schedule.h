#ifndef FLEXQUANT_CLIENT_CLI_PLAN_SCHEDULE_H_
#define FLEXQUANT_CLIENT_CLI_PLAN_SCHEDULE_H_

#include <cstddef>
#include <string>

#include "absl/status/statusor.h"
#include "client/cli/policy_evaluation.h"

namespace flexquant::cli {

// What a policy did on a model, recorded by `flexquant evaluate --report`.
struct PlanSchedule {
  std::string policy;
  PolicyOutcome windows;     // at least one, each of at least one token; all plans have the same length
  int num_layer_groups = 0;  // of the model

  size_t NumTokens() const;
  double MeanKl() const;  // nats
  // Leaves the first `tokens` tokens.
  void Shorten(size_t tokens);
};

// Reads the windows of `policy`, as the report names it ("kl:0.01"), of a file measured.jsonl. NOT_FOUND names the
// policies that the file has; INVALID_ARGUMENT names the window and the field.
absl::StatusOr<PlanSchedule> ReadPlanSchedule(const std::string& path, const std::string& policy);

}  // namespace flexquant::cli

#endif  // FLEXQUANT_CLIENT_CLI_PLAN_SCHEDULE_H_
