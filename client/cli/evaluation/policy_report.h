#ifndef FLEXQUANT_CLIENT_CLI_EVALUATION_POLICY_REPORT_H_
#define FLEXQUANT_CLIENT_CLI_EVALUATION_POLICY_REPORT_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/cli/evaluation/evaluation_log.h"
#include "client/cli/evaluation/figures_json.h"
#include "client/cli/policy_cases.h"
#include "common/calibration/calibration.h"

namespace flexquant::cli {

// What the parts of a report share. Everything outlives them.
struct ReportContext {
  const PolicyFlags& flags;
  const std::vector<double>& budgets;  // of kl:, ascending
  size_t oracle_windows;
  const Calibration& calibration;
  const std::optional<Calibration>& other_calibration;  // of the same weights, on another text
  const controller::LayerGroups& groups;
  const std::vector<PolicyWindow>& windows;
  const PolicyRunners& runners;
  EvaluationLog& log;
};

// Runs every policy and control on all windows, the oracle on the first `oracle_windows`.
absl::StatusOr<std::vector<MeasuredPolicy>> MeasurePolicies(const ReportContext& context);

// Where the log keeps cases that depend on nothing but their window, so that a run of more windows goes on with them,
// and those that depend on what others did in all windows.
inline constexpr char kWindowScope[] = "policies";
std::string RunScope(const ReportContext& context);

// Outcomes of cases with their figures. `kinds` [cases].
absl::StatusOr<std::vector<MeasuredPolicy>> MeasureCases(const ReportContext& context, const std::string& scope,
                                                         const std::vector<PolicyCase>& cases,
                                                         const std::vector<std::string>& kinds,
                                                         const std::vector<PolicyWindow>& windows);

// Of `policies`, those of a kind.
std::vector<const MeasuredPolicy*> OfKind(const std::vector<MeasuredPolicy>& policies, const std::string& kind);

// The static plans of a kind, "uniform" or "ladder", up to the top precision, cheapest first.
std::vector<const MeasuredPolicy*> StaticPlans(const std::vector<MeasuredPolicy>& policies, const std::string& kind);

// Adds "policies", "comparisons", "claims", "prediction" and "trace" to a report.
void DescribePolicies(const ReportContext& context, const std::vector<MeasuredPolicy>& policies, Json& report);

}  // namespace flexquant::cli

#endif  // FLEXQUANT_CLIENT_CLI_EVALUATION_POLICY_REPORT_H_
