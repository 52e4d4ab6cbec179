#ifndef FLEXQUANT_CLIENT_CLI_EVALUATION_FIGURES_JSON_H_
#define FLEXQUANT_CLIENT_CLI_EVALUATION_FIGURES_JSON_H_

#include <string>
#include <vector>

#include "client/cli/json_output.h"
#include "client/cli/policy_figures.h"
#include "controller/layer_groups.h"

namespace flexquant::cli {

// A policy that has run, with its numbers.
struct MeasuredPolicy {
  std::string name;
  std::string kind;  // uniform, ladder, budget, dynamic, position, shuffled, random or oracle
  double budget = 0;
  PolicyOutcome outcome;
  PolicyFigures figures;
};

// {"value", "low", "high"}.
Json WithInterval(double value, const Interval& interval);

// Mean of `values`, one of each unit that the resampler draws.
Json MeanWithInterval(const std::vector<double>& values, const Resampler& resampler);

// A ratio of two policies' numbers on the same windows, from the same draws; "high_99" besides, the upper end of the 99
// % interval, for claims.
Json PairedRatio(const std::function<double(const Figures&)>& value, const PolicyFigures& of,
                 const PolicyFigures& against);

// All figures of a policy with their intervals; the maximum has none.
Json FiguresToJson(const MeasuredPolicy& policy, const controller::LayerGroups& groups);

// A policy against static plans, interpolated between those nearest in bytes: KL at the same bytes and bytes at the
// same KL, as ratios. `plans` ran on the policy's windows.
Json AgainstStatic(const MeasuredPolicy& policy, const std::vector<const MeasuredPolicy*>& plans,
                   const std::string& name);
// A policy's KL against another's.
Json AgainstPolicy(const MeasuredPolicy& policy, const MeasuredPolicy& other);

// Predicted and measured KL of a policy that predicts: over all tokens and in tenths of them by what was predicted,
// lowest first.
Json PredictionToJson(const MeasuredPolicy& policy, const Resampler& resampler);

// The plans of one window, token by token: mean bits, the entropy of what came out, KL.
Json TraceToJson(const MeasuredPolicy& policy, const controller::LayerGroups& groups);

}  // namespace flexquant::cli

#endif  // FLEXQUANT_CLIENT_CLI_EVALUATION_FIGURES_JSON_H_
