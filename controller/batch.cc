#include "controller/batch.h"

#include <algorithm>
#include <utility>

#include "common/check.h"

namespace flexquant::controller {
namespace {

// Prompts go on by so much a step at least.
constexpr uint32_t kMinPrefillTokens = 16;

bool MoreImportant(const Sequence& a, const Sequence& b) {
  return a.priority() != b.priority() ? a.priority() > b.priority()
         : a.arrival() != b.arrival() ? a.arrival() < b.arrival()
                                      : a.id() < b.id();
}

bool Contains(const std::vector<StepMember>& members, const Sequence* sequence) {
  return std::any_of(members.begin(), members.end(),
                     [&](const StepMember& member) { return member.sequence == sequence; });
}

}  // namespace

Batch::Batch(uint32_t num_kv_blocks, uint32_t kv_block_tokens, const BatchLimits& limits, const LayerGroups* groups)
    : limits_(limits), groups_(groups), kv_(num_kv_blocks, kv_block_tokens) {}

RequestQueue::Fit Batch::TryFit(const Sequence& sequence, std::vector<uint32_t>* prefix) {
  if (kv_.BlocksFor(sequence.max_kv_tokens()) > kv_.num_blocks()) {
    return RequestQueue::Fit::kNever;
  }
  *prefix = kv_.UsePrefix(sequence.PromptKeys(kv_.block_tokens()));
  const uint64_t missing = kv_.BlocksFor(sequence.known_tokens()) - prefix->size();
  if (missing + running_.size() > kv_.num_available()) {
    kv_.Release(std::exchange(*prefix, {}));
    return RequestQueue::Fit::kNotNow;
  }
  return RequestQueue::Fit::kNow;
}

absl::Time Batch::Admit(RequestQueue& queue, absl::Time now, Balancer* balancer, uint32_t executor) {
  absl::Time look_again = absl::InfiniteFuture();
  const auto left = [&](absl::Time until) {
    if (until != absl::InfinitePast()) {
      look_again = std::min(look_again, until);
    }
    return until != absl::InfinitePast();
  };
  while (running_.size() < limits_.max_sequences) {
    std::vector<uint32_t> prefix;
    const auto fit = [&](const Sequence& waiting) {
      if (balancer != nullptr && left(balancer->OfferedToAnother(executor, waiting, now))) {
        return RequestQueue::Fit::kElsewhere;
      }
      const RequestQueue::Fit fits = TryFit(waiting, &prefix);
      if (balancer == nullptr || fits == RequestQueue::Fit::kNever) {
        return fits;
      }
      if (left(fits == RequestQueue::Fit::kNow ? balancer->PreferAnother(executor, waiting, now)
                                               : balancer->Refuse(executor, waiting, now))) {
        kv_.Release(std::exchange(prefix, {}));
        return RequestQueue::Fit::kElsewhere;
      }
      if (fits == RequestQueue::Fit::kNow) {
        balancer->Take(executor, waiting);
      }
      return fits;
    };
    std::unique_ptr<Sequence> sequence = queue.Pop(now, fit);
    if (sequence == nullptr) {
      break;
    }
    sequence->Start(++last_executor_id_, std::move(prefix), kv_.block_tokens(), limits_.settings, now);
    const auto place = std::upper_bound(running_.begin(), running_.end(), sequence,
                                        [](const auto& a, const auto& b) { return MoreImportant(*a, *b); });
    running_.insert(place, std::move(sequence));
  }
  return look_again;
}

bool Batch::WasPreempted(const Sequence* sequence) const {
  return std::any_of(preempted_.begin(), preempted_.end(), [&](const auto& one) { return one.get() == sequence; });
}

bool Batch::Preempt(const Sequence& for_whom, const std::vector<StepMember>& members) {
  for (size_t i = running_.size(); i > 0; --i) {
    std::unique_ptr<Sequence>& candidate = running_[i - 1];
    if (candidate->ended() || Contains(members, candidate.get())) {
      continue;
    }
    // The least important one that can leave may be the one that asks.
    const bool itself = candidate.get() == &for_whom;
    kv_.Release(candidate->Leave());
    preempted_.push_back(std::move(candidate));
    running_.erase(running_.begin() + static_cast<int64_t>(i) - 1);
    return !itself;
  }
  return false;
}

bool Batch::Reserve(Sequence& sequence, uint32_t count, const std::vector<StepMember>& members) {
  const uint32_t missing = sequence.MissingBlocks(count);
  while (missing > kv_.num_available()) {
    if (!Preempt(sequence, members)) {
      return false;
    }
  }
  sequence.AddBlocks(*kv_.Allocate(missing));
  return true;
}

uint32_t Batch::AddDecodes(const std::vector<Sequence*>& order, std::vector<StepMember>& members) {
  for (Sequence* sequence : order) {
    if (members.size() >= limits_.max_sequences || members.size() >= limits_.max_step_tokens) {
      break;
    }
    if (!WasPreempted(sequence) && sequence->can_decode() && Reserve(*sequence, 1, members)) {
      members.push_back({sequence, sequence->NextDecode()});
      members.back().step.audit = sequence->DrawsAudit(limits_.audit_rate);
    }
  }
  return static_cast<uint32_t>(members.size());
}

std::optional<StepWork> Batch::Work(const std::vector<SequenceStep>& steps) const {
  // An audit computes its token twice; the reference has no planes.
  const bool usual = std::none_of(steps.begin(), steps.end(), [](const SequenceStep& step) {
    return step.audit || step.plan.bits[0] == kReferencePrecision;
  });
  return groups_ != nullptr && usual ? std::optional(WorkOf(*groups_, steps, limits_.settings.coarse_prompts))
                                     : std::nullopt;
}

uint32_t Batch::PrefillTokens(const std::vector<StepMember>& decodes) const {
  if (groups_ == nullptr || !cost_.known() || decodes.empty()) {
    return limits_.prefill_chunk_tokens;
  }
  // Most tokens of prompts are computed at the top precision and do not come to the head.
  const PrecisionPlan top = PrecisionPlan::Uniform(kTopPrecision, groups_->count());
  SequenceStep prompt;
  prompt.plan = top;
  prompt.token_ids = {0};
  std::vector<SequenceStep> steps;
  for (const StepMember& member : decodes) {
    steps.push_back(member.step);
  }
  const double left = absl::ToDoubleSeconds(limits_.max_step_time) -
                      cost_.Of(WorkOf(*groups_, steps, limits_.settings.coarse_prompts)) -
                      cost_.Of({static_cast<double>(groups_->BytesRead(top)), 0});
  const double tokens = left / cost_.Of({0, WorkOf(*groups_, {prompt}, limits_.settings.coarse_prompts).products});
  return static_cast<uint32_t>(std::clamp<double>(tokens, std::min(kMinPrefillTokens, limits_.prefill_chunk_tokens),
                                                  limits_.prefill_chunk_tokens));
}

void Batch::AddPrefills(const std::vector<Sequence*>& order, uint32_t step_tokens, std::vector<StepMember>& members) {
  const auto waits = [&](const Sequence* sequence) {
    return !WasPreempted(sequence) && sequence->prefill_remaining() > 0;
  };
  if (std::none_of(order.begin(), order.end(), waits)) {
    return;  // most steps only decode: nothing to weigh
  }
  uint32_t left = std::min(PrefillTokens(members), limits_.max_step_tokens - step_tokens);
  for (Sequence* sequence : order) {
    if (left == 0 || members.size() >= limits_.max_sequences) {
      return;
    }
    if (!waits(sequence)) {
      continue;
    }
    const uint32_t chunk = sequence->PrefillChunk(left);
    if (Reserve(*sequence, chunk, members)) {
      members.push_back({sequence, sequence->NextPrefill(chunk)});
      left -= chunk;
    }
  }
}

std::vector<SequenceStep> Batch::Compose(absl::Time now) {
  std::vector<Sequence*> order;
  for (const auto& sequence : running_) {
    sequence->NotePause(now);
    if (!sequence->ended() && !sequence->paused()) {
      order.push_back(sequence.get());
    }
  }
  std::vector<StepMember> members;
  const uint32_t decodes = AddDecodes(order, members);
  AddPrefills(order, decodes, members);
  ShareOnePlan(members, cost_);
  std::vector<SequenceStep> steps;
  steps.reserve(members.size());
  for (StepMember& member : members) {
    member.sequence->Sent(member.step);
    steps.push_back(std::move(member.step));
  }
  return steps;
}

void Batch::Accepted(const Sequence& sequence) {
  if (!sequence.prompt_became_shareable()) {
    return;
  }
  const absl::Span<const PrefixKey> keys = sequence.PromptKeys(kv_.block_tokens());
  for (size_t i = 0; i < keys.size(); ++i) {
    kv_.Remember(keys[i], sequence.kv_blocks()[i]);
  }
}

std::vector<uint64_t> Batch::RemoveEnded() {
  std::vector<uint64_t> removed;
  for (auto& sequence : running_) {
    if (sequence->ended()) {
      removed.push_back(sequence->executor_id());
      // The executor forgets the sequence before any step sent later, so its blocks are free for those.
      kv_.Release(sequence->kv_blocks());
      sequence.reset();
    }
  }
  if (!removed.empty()) {
    running_.erase(std::remove(running_.begin(), running_.end(), nullptr), running_.end());
  }
  return removed;
}

std::unique_ptr<Sequence> Batch::Take(uint64_t executor_id) {
  const size_t place = Locate(executor_id);
  if (place == running_.size()) {
    return nullptr;
  }
  std::unique_ptr<Sequence> taken = std::move(running_[place]);
  running_.erase(running_.begin() + static_cast<int64_t>(place));
  kv_.Release(taken->Leave());
  return taken;
}

std::vector<std::unique_ptr<Sequence>> Batch::TakeAll() {
  std::vector<std::unique_ptr<Sequence>> all;
  for (auto& sequence : running_) {
    if (!sequence->ended()) {
      kv_.Release(sequence->Leave());
      all.push_back(std::move(sequence));
    }
  }
  running_.clear();
  return all;
}

ExecutorLoad Batch::Load() const {
  ExecutorLoad load;
  load.num_kv_blocks = kv_.num_blocks();
  load.kv_block_tokens = kv_.block_tokens();
  load.max_sequences = limits_.max_sequences;
  load.running = static_cast<uint32_t>(running_.size());
  uint32_t promised = 0;  // blocks of tokens that are known and not computed yet
  for (const auto& sequence : running_) {
    load.prompt_tokens += sequence->prefill_remaining();
    promised += sequence->MissingBlocks(sequence->prefill_remaining());
  }
  load.available_kv_blocks = kv_.num_available() - std::min(promised, kv_.num_available());
  return load;
}

size_t Batch::Locate(uint64_t executor_id) const {
  // Results come in the order of a step, which is that of the batch: the next one is mostly behind the one before.
  for (size_t looked_at = 0; looked_at < running_.size(); ++looked_at) {
    next_place_ = next_place_ < running_.size() ? next_place_ : 0;
    const size_t place = next_place_++;
    if (running_[place]->executor_id() == executor_id) {
      return place;
    }
  }
  return running_.size();
}

Sequence* Batch::Find(uint64_t executor_id) const {
  const size_t place = Locate(executor_id);
  return place == running_.size() ? nullptr : running_[place].get();
}

}  // namespace flexquant::controller
