#ifndef FLEXQUANT_CONTROLLER_SEQUENCE_H_
#define FLEXQUANT_CONTROLLER_SEQUENCE_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/tokenizer/tokenizer.h"
#include "controller/generation.h"
#include "controller/layer_groups.h"
#include "controller/precision_tally.h"
#include "controller/step.h"
#include "controller/stop_strings.h"

namespace flexquant::controller {

// One request from its acceptance to its end: what has been sent to the executor, what came back, and what the sink
// gets. Tells the sink exactly one end; one that is destroyed before it fails with ABORTED. Used by one thread at a
// time.
class Sequence {
 public:
  // What sequences share; all must outlive them.
  struct Shared {
    const Tokenizer& tokenizer;
    const LayerGroups& groups;
    uint32_t lookahead;  // steps sent before the result of the step before them
  };
  // `active` is released with the sequence.
  Sequence(uint64_t id, std::unique_ptr<GenerationSpec> spec, std::shared_ptr<GenerationSink> sink,
           const Shared& shared, std::shared_ptr<void> active);
  ~Sequence();
  Sequence(const Sequence&) = delete;
  Sequence& operator=(const Sequence&) = delete;

  uint64_t id() const { return id_; }
  bool isolated() const { return spec_->isolated; }
  absl::Time deadline() const { return spec_->deadline; }
  const std::string& request_id() const { return spec_->request_id; }
  bool ended() const { return ended_; }
  bool has_answer_tokens() const { return accepted_ > 0; }

  // KV positions the whole answer needs: the last token is never fed back.
  uint64_t kv_tokens() const { return spec_->prompt.size() + spec_->max_tokens - 1; }
  // The request leaves the queue with its KV blocks.
  void Start(std::vector<uint32_t> kv_blocks, absl::Time now);
  const std::vector<uint32_t>& kv_blocks() const { return kv_blocks_; }

  // As PrecisionPolicy's: of the decode step that NextDecode gave last.
  const LevelDemand* demand() const { return spec_->policy->demand(); }

  // Prompt tokens not yet sent.
  uint32_t prefill_remaining() const;
  // The prompt is sent and more answer tokens may be asked for.
  bool can_decode() const { return prefill_remaining() == 0 && requested_ < spec_->max_tokens; }
  // The next `count` prompt tokens as a step, in [1, prefill_remaining()]; or the next token of the answer, with the
  // policy's plan. The caller may raise the step's plan; Sent tells which was used in the end.
  SequenceStep NextPrefill(uint32_t count, uint32_t block_tokens);
  SequenceStep NextDecode(uint32_t block_tokens);
  void Sent(const SequenceStep& step);
  // Whether the step of NextDecode is among the `rate` that are audited; drawn from seed and position alone, so that
  // what is measured does not depend on what is expected.
  bool DrawsAudit(double rate) const;

  // A sampled token, and the KL measured of it if it was audited. Sends the delta and, at a stop, the end.
  void Accept(const SampledToken& token, std::optional<double> audit_kl, absl::Time now);
  // Ends with an error.
  void Fail(absl::Status status);
  // Ends without a word to the sink: the request was not accepted.
  void Discard() { ended_ = true; }

 private:
  SequenceStep NextStep(uint32_t count, uint32_t block_tokens);
  // Why the answer ends with this token by its id; empty if it does not.
  std::string StopCauseOf(uint32_t id) const;
  void Finish(bool stopped, std::string cause);

  const uint64_t id_;
  const std::unique_ptr<GenerationSpec> spec_;
  const std::shared_ptr<GenerationSink> sink_;
  const uint32_t lookahead_;
  const std::shared_ptr<void> active_;
  IncrementalDetokenizer detokenizer_;
  StopStringMatcher stop_strings_;
  PrecisionTally tally_;

  std::vector<uint32_t> kv_blocks_;
  uint32_t blocks_sent_ = 0;
  uint32_t positions_sent_ = 0;
  uint32_t requested_ = 0;               // answer tokens asked for
  uint32_t accepted_ = 0;                // answer tokens received
  uint32_t observed_ = 0;                // answer tokens whose signals the policy has seen
  std::deque<TokenSignals> unobserved_;  // of the tokens after those
  // Of the answer tokens asked for but not received.
  struct InUse {
    PrecisionPlan plan;
    std::optional<double> predicted_kl;
  };
  std::deque<InUse> plans_in_use_;
  bool ended_ = false;
  absl::Time started_;
  absl::Time first_token_;
  absl::Time last_token_;
};

}  // namespace flexquant::controller

#endif  // FLEXQUANT_CONTROLLER_SEQUENCE_H_
