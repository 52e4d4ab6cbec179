#ifndef FLEXQUANT_CLIENT_CLI_POLICY_EVALUATION_H_
#define FLEXQUANT_CLIENT_CLI_POLICY_EVALUATION_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/store/model_store.h"
#include "controller/policy/precision_policy.h"
#include "executor/model_runner.h"

namespace flexquant::cli {

// A policy under test; `make` gives a fresh one for window `window`. Without it an oracle, which knows what no policy
// can: a token's KL at each of `levels` [cheapest to dearest], from the sequence's own state. It takes the cheapest
// with at most `max_kl` nats, or else the last.
struct PolicyCase {
  std::string name;
  std::function<absl::StatusOr<std::unique_ptr<controller::PrecisionPolicy>>(size_t window)> make;
  std::vector<PrecisionPlan> levels = {};
  double max_kl = 0;
  double budget = 0;  // of the mean KL, in nats; 0 = none
};

// What a policy did, of the tokens after each window's prompt.
struct PolicyOutcome {
  std::vector<std::vector<double>> kl;            // nats, [windows][tokens]: KL(top precision || policy)
  std::vector<std::vector<PrecisionPlan>> plans;  // [windows][tokens]
  double nll_nats = 0;                            // sum over the tokens that have a next one
  uint64_t num_scored = 0;
  uint64_t num_agreeing = 0;  // most likely token is the top precision's
};

// Feeds every window token by token, as in decoding with known answers: the first `prompt_tokens` (>= 1, less than a
// window) at the top precision, then each token at the plan its policy chooses from the signals of the tokens before.
// The top precision runs beside it on the same tokens. `progress(done, total)` after every step of a window.
// RESOURCE_EXHAUSTED if the KV cache is too small for a window of every case.
absl::StatusOr<std::vector<PolicyOutcome>> RunPolicies(const std::vector<PolicyCase>& cases,
                                                       const std::vector<std::vector<uint32_t>>& windows,
                                                       size_t prompt_tokens, int lookahead,
                                                       executor::ModelRunner& runner,
                                                       const std::function<void(uint64_t, uint64_t)>& progress);

}  // namespace flexquant::cli

#endif  // FLEXQUANT_CLIENT_CLI_POLICY_EVALUATION_H_
