#ifndef FLEXQUANT_CONTROLLER_BATCH_H_
#define FLEXQUANT_CONTROLLER_BATCH_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "controller/balancer.h"
#include "controller/kv_blocks.h"
#include "controller/layer_groups.h"
#include "controller/request_queue.h"
#include "controller/sequence.h"
#include "controller/share_plan.h"
#include "controller/step.h"
#include "controller/work_times.h"

namespace flexquant::controller {

struct BatchLimits {
  uint32_t max_sequences = 1;
  uint32_t max_step_tokens = 1;
  uint32_t prefill_chunk_tokens = 256;  // of all prefills of a step together, so that decodes keep their pace
  double audit_rate = 0;                // of decode steps whose policy predicts KL; 0 = none
  // Of a step that decodes, prompts are computed in pieces that fit; as far as the steps before tell.
  absl::Duration max_step_time = absl::InfiniteDuration();
  BackendSettings settings = {};  // the executor's
};

// The sequences on one executor and the KV blocks they use: who comes in, what the next step has, who has to leave when
// blocks run out. Blocks are given as positions are computed, so a sequence occupies what it has said, not what it may
// say. Not thread-safe.
class Batch {
 public:
  // `groups` must outlive this; null = what steps cost is not learned.
  Batch(uint32_t num_kv_blocks, uint32_t kv_block_tokens, const BatchLimits& limits,
        const LayerGroups* groups = nullptr);

  // Takes from `queue` what fits: blocks for all known tokens, beside one that each running sequence may need next.
  // With a balancer, which knows this executor by `executor`, some of it is left to others: returns until when,
  // InfiniteFuture if nothing is.
  absl::Time Admit(RequestQueue& queue, absl::Time now, Balancer* balancer = nullptr, uint32_t executor = 0);

  // The next step; empty if there is nothing to compute. Every running sequence that can decodes, most important first,
  // then known tokens are computed. When blocks run out the least important sequence leaves (Preempted).
  std::vector<SequenceStep> Compose(absl::Time now);
  // Sequences that Compose made leave: the executor must forget them before the step, then they go back to the queue.
  std::vector<std::unique_ptr<Sequence>> TakePreempted() { return std::exchange(preempted_, {}); }

  // What a step that Compose made costs; none if that teaches nothing.
  std::optional<StepWork> Work(const std::vector<SequenceStep>& steps) const;
  // A step of such work took so long.
  void Took(const StepWork& work, absl::Duration compute_time) { cost_.Observe(work, compute_time); }

  // To be called whenever a sequence has accepted a token: its prompt's blocks can be shared from the first one on.
  void Accepted(const Sequence& sequence);
  // Removes what has ended and returns the executor's ids of it.
  std::vector<uint64_t> RemoveEnded();
  // Removes one that has not ended; null if it is not here.
  std::unique_ptr<Sequence> Take(uint64_t executor_id);
  // Removes all that have not ended; their blocks count for nothing any more.
  std::vector<std::unique_ptr<Sequence>> TakeAll();

  // For the balancer, but for the steps' times.
  ExecutorLoad Load() const;
  // Null if it is not here.
  Sequence* Find(uint64_t executor_id) const;
  const std::vector<std::unique_ptr<Sequence>>& running() const { return running_; }
  const KvBlocks& kv() const { return kv_; }

 private:
  // Whether one could come in now; if so, `prefix` gets the known blocks of its prompt, in use.
  RequestQueue::Fit TryFit(const Sequence& sequence, std::vector<uint32_t>* prefix);
  // Blocks for `count` more positions of `sequence`, if need be by making another one leave that is not in `members`.
  bool Reserve(Sequence& sequence, uint32_t count, const std::vector<StepMember>& members);
  bool Preempt(const Sequence& for_whom, const std::vector<StepMember>& members);
  // Returns the step's tokens so far.
  uint32_t AddDecodes(const std::vector<Sequence*>& order, std::vector<StepMember>& members);
  // Prompt tokens that fit beside the decodes of a step.
  uint32_t PrefillTokens(const std::vector<StepMember>& decodes) const;
  void AddPrefills(const std::vector<Sequence*>& order, uint32_t step_tokens, std::vector<StepMember>& members);
  // Its place in running_; running_.size() if it is not here.
  size_t Locate(uint64_t executor_id) const;
  bool WasPreempted(const Sequence* sequence) const;

  const BatchLimits limits_;
  const LayerGroups* const groups_;
  WorkTimes cost_;
  KvBlocks kv_;
  uint64_t last_executor_id_ = 0;
  std::vector<std::unique_ptr<Sequence>> running_;  // most important first
  mutable size_t next_place_ = 0;                   // where Locate looks first
  std::vector<std::unique_ptr<Sequence>> preempted_;
};

}  // namespace flexquant::controller

#endif  // FLEXQUANT_CONTROLLER_BATCH_H_
