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
#include "absl/types/span.h"
#include "common/tokenizer/tokenizer.h"
#include "controller/active_requests.h"
#include "controller/answer_journal.h"
#include "controller/generation.h"
#include "controller/layer_groups.h"
#include "controller/precision_tally.h"
#include "controller/prefix_key.h"
#include "controller/step.h"
#include "controller/stop_strings.h"

namespace flexquant::controller {

// One request from its acceptance to its end: what has been sent to the executor, what came back, and what the sink
// gets. It may stay with several executors one after the other (Start ... Leave): on the next one, prompt and answer so
// far are computed again, in an isolated sequence each token at the plan that it had, so that nothing changes. Tells
// the sink exactly one end; one that is destroyed before it fails with ABORTED. Used by one thread at a time.
class Sequence {
 public:
  // What sequences share; all must outlive them.
  struct Shared {
    const Tokenizer& tokenizer;
    const LayerGroups& groups;
    uint32_t lookahead;  // steps sent before the result of the step before them
  };
  // `active` is released with the sequence.
  Sequence(std::unique_ptr<GenerationSpec> spec, std::shared_ptr<GenerationSink> sink, const Shared& shared,
           std::shared_ptr<ActiveRequest> active);
  ~Sequence();
  Sequence(const Sequence&) = delete;
  Sequence& operator=(const Sequence&) = delete;

  uint64_t id() const { return active_->id(); }
  EndCause end_cause() const { return active_->end_cause(); }
  bool isolated() const { return spec_->isolated; }
  absl::Time deadline() const { return spec_->deadline; }
  const std::string& request_id() const { return spec_->request_id; }
  const std::string& tenant() const { return spec_->tenant; }
  int priority() const { return spec_->priority; }
  absl::Time arrival() const { return spec_->arrival; }
  bool ended() const { return ended_; }
  bool has_answer_tokens() const { return journal_.size() > 0; }
  // Whether an executor has had it before.
  bool started() const { return started_ != absl::InfinitePast(); }

  // KV positions the whole answer needs: the last token is never fed back.
  uint64_t max_kv_tokens() const { return spec_->prompt.size() + spec_->max_tokens - 1; }
  // Tokens that are known and have to be computed before the next one can be sampled.
  uint32_t known_tokens() const { return static_cast<uint32_t>(spec_->prompt.size()) + journal_.size(); }
  const std::vector<uint32_t>& prompt() const { return spec_->prompt; }
  // Keys of the prompt's blocks that another sequence can share: at least one token is left to compute. They stand
  // until the next call.
  absl::Span<const PrefixKey> PromptKeys(uint32_t block_tokens) const;

  // Takes over what was said elsewhere (GenerationSpec.resumed), before anything else is done with it. Ends the answer
  // if that was all of it.
  void Resume();

  // The request goes to an executor with `settings`, which knows it by `executor_id`; `prefix_blocks` hold its first
  // tokens already.
  void Start(uint64_t executor_id, std::vector<uint32_t> prefix_blocks, uint32_t block_tokens,
             const BackendSettings& settings, absl::Time now);
  uint64_t executor_id() const { return executor_id_; }
  // It leaves its executor without having ended; returns the blocks it had. Results on their way no longer count.
  std::vector<uint32_t> Leave();
  // Times in a row that it lost an executor without a new token in between.
  int losses() const { return losses_; }
  void CountLoss() { ++losses_; }

  const std::vector<uint32_t>& kv_blocks() const { return kv_blocks_; }
  // Blocks missing for `count` more positions.
  uint32_t MissingBlocks(uint32_t count) const;
  void AddBlocks(const std::vector<uint32_t>& blocks);
  // With the token just accepted the prompt is known to have been computed on this executor, all of it at its own plan.
  bool prompt_became_shareable() const { return accepted_here_ == 1 && !prompt_raised_; }

  // The client does not read what it has been sent: no more tokens for now.
  bool paused() const { return sink_->congested(); }
  // Since when; InfiniteFuture if it is not.
  absl::Time paused_since() const { return paused_since_; }
  void NotePause(absl::Time now);

  // As PrecisionPolicy's: of the step that NextDecode gave last. Null if its plan is settled.
  const LevelDemand* demand() const { return requested_ < journal_.planned() ? nullptr : spec_->policy->demand(); }

  // Known tokens not yet sent: of the prompt and, on a second executor, of the answer.
  uint32_t prefill_remaining() const {
    return known_at_start_ > positions_sent_ ? known_at_start_ - positions_sent_ : 0;
  }
  // How many of them the next step can have, at most `most`: all of a step's tokens have one plan.
  uint32_t PrefillChunk(uint32_t most) const;
  // All known tokens are sent and more answer tokens may be asked for.
  bool can_decode() const { return prefill_remaining() == 0 && requested_ < spec_->max_tokens; }
  // The next PrefillChunk(most) known tokens as a step; or the next token of the answer. Its blocks must be there. The
  // caller may raise the step's plan; Sent tells which was used in the end.
  SequenceStep NextPrefill(uint32_t count);
  SequenceStep NextDecode();
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
  SequenceStep NextStep(uint32_t count);
  // The plan that known token `position` is computed with on this executor.
  const PrecisionPlan& ReplayPlan(uint32_t position) const;
  // The plan of answer token requested_: the one it had when it was asked for before, else the policy's.
  const PrecisionPlan& PlanNextToken();
  // Takes answer token journal_.size(), which has its plan; returns the text that it lets out. `own` gets the text that
  // it completed, `stopped` and `cause` whether and why the answer ends with it.
  std::string Append(const SampledToken& token, std::string* own, bool* stopped, std::string* cause);
  // Why the answer ends with this token by its id; empty if it does not.
  std::string StopCauseOf(uint32_t id) const;
  void Finish(bool stopped, std::string cause);

  const std::unique_ptr<GenerationSpec> spec_;
  const std::shared_ptr<GenerationSink> sink_;
  const uint32_t lookahead_;
  const std::shared_ptr<ActiveRequest> active_;
  IncrementalDetokenizer detokenizer_;
  StopStringMatcher stop_strings_;
  PrecisionTally tally_;
  AnswerJournal journal_;

  // A request that waits is looked at again and again: its prompt is hashed once for each size of blocks.
  mutable uint32_t prompt_keys_block_ = 0;
  mutable std::vector<PrefixKey> prompt_keys_;

  // With the present executor.
  uint64_t executor_id_ = 0;
  uint32_t block_tokens_ = 1;
  std::vector<uint32_t> kv_blocks_;
  uint32_t blocks_sent_ = 0;
  uint32_t cached_ = 0;          // tokens that the first blocks held already
  uint32_t positions_sent_ = 0;  // cached ones included
  uint32_t known_at_start_ = 0;
  uint32_t accepted_here_ = 0;
  bool prompt_raised_ = false;  // a part of the prompt ran at another plan than its own
  uint32_t requested_ = 0;      // answer tokens asked for, those of earlier executors that arrived included

  uint32_t observed_ = 0;                // answer tokens whose signals the policy has seen
  std::deque<TokenSignals> unobserved_;  // of the tokens after those
  int losses_ = 0;
  bool ended_ = false;
  absl::Time paused_since_ = absl::InfiniteFuture();
  absl::Time started_ = absl::InfinitePast();
  absl::Time first_token_ = absl::InfinitePast();
  absl::Time last_token_;
  uint32_t timed_tokens_ = 0;  // those between these times
};

}  // namespace flexquant::controller

#endif  // FLEXQUANT_CONTROLLER_SEQUENCE_H_
