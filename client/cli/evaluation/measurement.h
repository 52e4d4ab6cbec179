#ifndef FLEXQUANT_CLIENT_CLI_EVALUATION_MEASUREMENT_H_
#define FLEXQUANT_CLIENT_CLI_EVALUATION_MEASUREMENT_H_

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "client/cli/evaluation/evaluation_log.h"
#include "client/cli/policy_evaluation.h"

namespace flexquant::cli {

// A piece of the log: a case's outcome in a window.
struct Piece {
  std::string scope;
  std::string policy;  // the case's name
  size_t window = 0;   // its index
  size_t tokens = 0;   // of which there are outcomes
};

// "SCOPE/POLICY/WINDOW of TOKENS tokens". With its length, since a shorter run may have cut the window off.
std::string PieceId(const Piece& piece);
// What PieceId made; nothing if `id` is another one.
std::optional<Piece> ParsePieceId(absl::string_view id);

// Outcomes [cases][windows] of RunPolicies, measured piece by piece: what `log` has under their PieceId is not run
// again, what is new is added to it. Progress is shown as `scope`. Errors of RunPolicies and the log.
absl::StatusOr<std::vector<PolicyOutcome>> Measure(const std::string& scope, const std::vector<PolicyCase>& cases,
                                                   const std::vector<PolicyWindow>& windows,
                                                   const PolicyRunners& runners, EvaluationLog& log);

}  // namespace flexquant::cli

#endif  // FLEXQUANT_CLIENT_CLI_EVALUATION_MEASUREMENT_H_
