#ifndef FLEXQUANT_CLIENT_CLI_POLICY_FIGURES_H_
#define FLEXQUANT_CLIENT_CLI_POLICY_FIGURES_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "absl/types/span.h"
#include "client/cli/policy_evaluation.h"
#include "controller/layer_groups.h"

namespace flexquant::cli {

// Numbers of a policy over tokens; a request is a window.
struct Figures {
  double mean_kl = 0;  // nats, as all KL
  double median_kl = 0;
  double p99_kl = 0;
  double max_kl = 0;
  double agreement = 0;   // part of the tokens whose most likely one is the top precision's
  double perplexity = 0;  // of the tokens that follow; 1 if none does
  double bytes = 0;       // a token: planes and scales read
  double within = 0;      // part of the requests of kRequestTokens or more whose mean KL is within the budget
  uint64_t requests = 0;  // of kRequestTokens or more
  uint64_t tokens = 0;

  // Bits such that the top precision's bytes are its bits.
  double MeanBits(const controller::LayerGroups& groups) const;
};

inline constexpr size_t kRequestTokens = 128;

struct Interval {
  double low = 0;
  double high = 0;
};

// Bootstrap: draws of `count` units with repetition, always the same for a count and a seed, so that whatever is
// computed from the draw of the same number is paired.
class Resampler {
 public:
  static constexpr size_t kDraws = 1'000;
  Resampler(size_t count, uint64_t seed);
  const std::vector<std::vector<uint32_t>>& draws() const { return draws_; }

 private:
  std::vector<std::vector<uint32_t>> draws_;  // [kDraws][count]
};

// The middle `part` of `values`, one of each draw; values that are not finite are left out. {NaN, NaN} if none is.
Interval MiddlePart(std::vector<double> values, double part = 0.95);

// A policy's numbers, and the same of each draw of its windows.
struct PolicyFigures {
  Figures all;
  std::vector<Figures> draws;  // [Resampler::kDraws]

  Interval Of(const std::function<double(const Figures&)>& value) const;
};

// `budget` as in PolicyCase. The resampler's count is the outcome's windows, each of at least one token.
PolicyFigures ComputeFigures(const PolicyOutcome& outcome, double budget, const controller::LayerGroups& groups,
                             const Resampler& resampler);

}  // namespace flexquant::cli

#endif  // FLEXQUANT_CLIENT_CLI_POLICY_FIGURES_H_
