#ifndef FLEXQUANT_CLIENT_CLI_EVALUATION_MEASUREMENT_H_
#define FLEXQUANT_CLIENT_CLI_EVALUATION_MEASUREMENT_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/cli/evaluation/evaluation_log.h"
#include "client/cli/policy_evaluation.h"
#include "executor/model_runner.h"

namespace flexquant::cli {

// Outcomes [cases][windows] of RunPolicies, measured piece by piece: what `log` has under "SCOPE/CASE/WINDOW of N
// tokens" is not run again, what is new is added to it. Progress is shown as `scope`. Errors of RunPolicies and the
// log.
absl::StatusOr<std::vector<PolicyOutcome>> Measure(const std::string& scope, const std::vector<PolicyCase>& cases,
                                                   const std::vector<PolicyWindow>& windows,
                                                   executor::ModelRunner& runner, EvaluationLog& log);

}  // namespace flexquant::cli

#endif  // FLEXQUANT_CLIENT_CLI_EVALUATION_MEASUREMENT_H_
