#ifndef FLEXQUANT_CLIENT_CLI_EVALUATION_ABLATIONS_H_
#define FLEXQUANT_CLIENT_CLI_EVALUATION_ABLATIONS_H_

#include <vector>

#include "absl/status/statusor.h"
#include "client/cli/evaluation/policy_report.h"

namespace flexquant::cli {

// What parts of the policies are worth, each taken away: a list of {name, words, comparisons}. `measured` is
// MeasurePolicies' result.
// - lookahead: budgets at the other lookahead;
// - one way: `dynamic` and budgets whose plans never read more than the one before;
// - hysteresis: both without;
// - signals: requirement models of fewer features, fitted to every second window, at the same target of bits on the
//   others;
// - ladder: plans of a ladder's bytes whose layer groups were lowered in random order;
// - calibration text: budgets with the context's other calibration, if it has one.
absl::StatusOr<Json> ReportAblations(const ReportContext& context, const std::vector<MeasuredPolicy>& measured);

}  // namespace flexquant::cli

#endif  // FLEXQUANT_CLIENT_CLI_EVALUATION_ABLATIONS_H_
