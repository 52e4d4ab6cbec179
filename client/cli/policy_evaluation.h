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

// A text that a policy reads: a prompt at the top precision, then one token a step.
struct PolicyWindow {
  size_t index = 0;  // for PolicyCase::make
  std::vector<uint32_t> tokens;
  size_t prompt_tokens = 0;  // >= 1 and less than all
};

// What no policy can know: a token's KL at each of `levels` [cheapest to dearest], from the sequence's own state. With
// `bytes_a_nat` the level that minimises its bytes + bytes_a_nat * KL, or else the cheapest with at most `max_kl` nats,
// or else the last.
struct Oracle {
  std::vector<PrecisionPlan> levels;  // empty = no oracle
  double max_kl = 0;
  std::vector<double> bytes = {};  // [levels], for `bytes_a_nat`
  double bytes_a_nat = 0;
};

// A policy under test; `make` gives a fresh one for a window. Without it an oracle.
struct PolicyCase {
  std::string name;
  std::function<absl::StatusOr<std::unique_ptr<controller::PrecisionPolicy>>(size_t window)> make;
  int lookahead = 0;  // tokens whose signals the policy does not know yet
  Oracle oracle = {};
  double budget = 0;  // of the mean KL, in nats; 0 = none
};

// What a policy did on a window; a value for each token after the prompt.
struct WindowOutcome {
  std::vector<double> kl;             // nats: KL(top precision || policy)
  std::vector<double> nll;            // nats: -log p(the token that follows); one less, since the last has none
  std::vector<uint8_t> hits;          // as `nll`: whether the token that follows is the policy's most likely one
  std::vector<uint8_t> agrees;        // whether the most likely token is the top precision's
  std::vector<PrecisionPlan> plans;   // that computed it
  std::vector<TokenSignals> signals;  // of the distribution that came out
  std::vector<double> predicted_kl;   // nats, before the token was computed; empty if the policy predicts none

  bool operator==(const WindowOutcome&) const = default;
};
using PolicyOutcome = std::vector<WindowOutcome>;  // [windows]

// What computes the policies, and the top precision beside them: the same runner, or one with more exact keys and
// values and the same KV blocks' size. Both outlive this.
struct PolicyRunners {
  executor::ModelRunner& policies;
  executor::ModelRunner& top;
};

// Windows that RunPolicies can feed side by side, so that a caller may cut its work: at least 1.
// RESOURCE_EXHAUSTED if the KV cache is too small for a window of `tokens` under `num_cases` policies.
absl::StatusOr<size_t> WindowsAtOnce(const PolicyRunners& runners, size_t num_cases, size_t tokens);

// Feeds every window token by token, as in decoding with known answers: the prompt at the top precision, then each
// token at the plan its policy chooses from the signals of the tokens before. The top precision runs beside it on the
// same tokens, its prompts never coarser (RunnerInfo). `progress(done)` after every step, the tokens of windows so far.
// Returns [cases][windows]. RESOURCE_EXHAUSTED as WindowsAtOnce; CANCELLED on Ctrl-C.
absl::StatusOr<std::vector<PolicyOutcome>> RunPolicies(const std::vector<PolicyCase>& cases,
                                                       const std::vector<PolicyWindow>& windows,
                                                       const PolicyRunners& runners,
                                                       const std::function<void(uint64_t)>& progress);

}  // namespace flexquant::cli

#endif  // FLEXQUANT_CLIENT_CLI_POLICY_EVALUATION_H_
