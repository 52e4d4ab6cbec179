#ifndef FLEXQUANT_CONTROLLER_GENERATION_H_
#define FLEXQUANT_CONTROLLER_GENERATION_H_

// What the services ask of the scheduler and what it answers, in domain types.

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/precision.h"
#include "controller/policy/ladder.h"
#include "controller/policy/precision_policy.h"

namespace flexquant::controller {

// Sampling values in force; ranges as in flexquant.v1.SamplingParams.
struct SamplingValues {
  double temperature = 0;
  uint32_t top_k = 0;
  double top_p = 1;
  double min_p = 0;
  double repetition_penalty = 1;
  double presence_penalty = 0;
  double frequency_penalty = 0;
  uint64_t seed = 0;
};

// What a request asked the policy to keep to, of which at most one is set.
struct PrecisionTarget {
  std::optional<double> max_mean_kl;       // nats
  std::optional<double> target_mean_bits;  // bits a weight
};

// Priorities are in [-kMaxPriority, kMaxPriority].
inline constexpr int kMaxPriority = 100;

// A token of an answer that was begun elsewhere.
struct ResumedToken {
  uint32_t id = 0;
  TokenSignals signals;
};

// A validated request.
struct GenerationSpec {
  std::string request_id;
  std::string tenant;            // whose request it is; empty on a server without tokens
  int priority = 0;              // higher goes first
  std::vector<uint32_t> prompt;  // not empty
  SamplingValues sampling;
  uint32_t max_tokens = 1;          // >= 1
  bool limited_by_context = false;  // max_tokens was shortened to fit the context
  std::vector<std::string> stop_strings;
  std::vector<uint32_t> eos_token_ids;   // empty when end-of-sequence is to be ignored
  std::vector<uint32_t> stop_token_ids;  // the request's own
  uint32_t top_logprobs = 0;
  bool isolated = false;  // batch mode
  std::unique_ptr<PrecisionPolicy> policy;
  PrecisionPlan prefill_plan;
  const Ladder* ladder = nullptr;  // the model's, which outlives the request, if the policy moves on it
  bool calibrated = false;
  PrecisionTarget target;
  std::vector<ResumedToken> resumed;  // what the client has already; at most max_tokens
  absl::Time arrival = absl::InfinitePast();
  absl::Time deadline = absl::InfiniteFuture();
};

// One candidate token.
struct TopLogprob {
  uint32_t id = 0;
  double logprob = 0;
};

// A token as the executor sampled it.
struct SampledToken {
  uint32_t id = 0;
  TokenSignals signals;
  double logprob = 0;
  std::vector<TopLogprob> top;
};

// A token of an answer.
struct AnswerToken {
  SampledToken sampled;
  double bits = 0;  // mean bits a weight it was computed with
  std::optional<uint32_t> level;
  std::optional<double> audit_kl;  // nats
  std::string text;                // what it completed, as in TokenInfo
};

// New text and tokens of an answer.
struct AnswerDelta {
  std::string text;
  std::vector<AnswerToken> tokens;
};

// What audits measured of an answer, in nats.
struct AuditSummary {
  uint32_t tokens = 0;
  double mean_kl = 0;
  std::optional<double> margin_kl;  // to each side of the mean, 95 %; with two tokens or more
};

// Precision an answer really used.
struct PrecisionUse {
  std::map<int, uint64_t> histogram;  // tokens by nearest precision
  double mean_bits = 0;
  uint64_t weight_bytes_read = 0;
  uint64_t weight_bytes_top = 0;
  uint32_t plan_changes = 0;
  bool calibrated = false;
  std::string policy;
  PrecisionTarget target;
  std::optional<double> predicted_mean_kl;  // nats; set if the policy predicts any
  std::optional<AuditSummary> audit;
};

// How an answer ended.
struct AnswerEnd {
  bool stopped = false;    // false: max_tokens or the context is used up
  std::string stop_cause;  // as in GenerationFinished
  uint32_t prompt_tokens = 0;
  uint32_t generated_tokens = 0;
  absl::Duration queue_time;
  absl::Duration time_to_first_token;
  absl::Duration time_per_output_token;
  PrecisionUse precision;
};

// Receives one answer: OnStarted at most once, then deltas, then exactly one of OnFinished and OnFailed. Calls come one
// at a time but from different threads; they must return at once and not call back into the scheduler.
class GenerationSink {
 public:
  virtual ~GenerationSink() = default;
  // The request leaves the queue, for an executor whose settings cost every token `backend_kl` nats
  // (PrecisionPolicy::backend_kl).
  virtual void OnStarted(double backend_kl) = 0;
  virtual void OnDelta(AnswerDelta delta) = 0;
  virtual void OnFinished(AnswerEnd end) = 0;
  virtual void OnFailed(absl::Status status) = 0;
  // The client reads so slowly that no more should be computed for now. Asked from the scheduler's threads; whoever
  // answers true wakes the scheduler once that has changed.
  virtual bool congested() const { return false; }
};

}  // namespace flexquant::controller

#endif  // FLEXQUANT_CONTROLLER_GENERATION_H_
