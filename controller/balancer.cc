#include "controller/balancer.h"

#include <algorithm>

namespace flexquant::controller {
namespace {

// An answer's first tokens are what its place is judged by: few enough that a prompt's time counts, enough that the
// width of the steps does.
constexpr double kAnswerTokens = 32;
// Tokens of a key of prefixes, whatever the executors' blocks are: their usual size, so that prompts are hashed once.
constexpr uint32_t kKeyTokens = 16;
// A million tokens of prompts at least.
constexpr size_t kPrefixKeys = size_t{1} << 16U;
// Before any executor's steps are known, all are alike.
constexpr StepCost kUnknown = {0.01, 0.0005};

uint64_t BlocksFor(uint64_t tokens, uint32_t block_tokens) { return (tokens + block_tokens - 1) / block_tokens; }

}  // namespace

Balancer::Balancer() : owners_(kPrefixKeys) {}

uint32_t Balancer::Join(const ExecutorLoad& load, std::function<void()> wake) {
  const std::lock_guard lock(mutex_);
  Executor executor;
  executor.id = ++last_id_;
  executor.load = load;
  executor.wake = std::move(wake);
  executors_.push_back(std::move(executor));
  return last_id_;
}

Balancer::Executor* Balancer::Find(uint32_t id) {
  const auto found = std::lower_bound(executors_.begin(), executors_.end(), id,
                                      [](const Executor& executor, uint32_t wanted) { return executor.id < wanted; });
  return found == executors_.end() || found->id != id ? nullptr : &*found;
}

void Balancer::Leave(uint32_t executor) {
  const std::lock_guard lock(mutex_);
  for (auto offer = offers_.begin(); offer != offers_.end();) {
    const auto next = std::next(offer);
    if (offer->second.executor == executor) {
      EndOffer(offer);
    }
    offer = next;
  }
  std::erase_if(executors_, [&](const Executor& one) { return one.id == executor; });
}

void Balancer::Update(uint32_t executor, const ExecutorLoad& load) {
  const std::lock_guard lock(mutex_);
  if (Executor* found = Find(executor); found != nullptr) {
    found->load = load;
  }
}

StepCost Balancer::FastestKnown() const {
  std::optional<StepCost> fastest;
  for (const Executor& executor : executors_) {
    const std::optional<StepCost>& cost = executor.load.cost;
    if (cost.has_value() && (!fastest.has_value() || cost->Seconds(1) < fastest->Seconds(1))) {
      fastest = cost;
    }
  }
  return fastest.value_or(kUnknown);
}

Balancer::Executor* Balancer::Choose(const Sequence& sequence, absl::Time now) {
  const std::vector<PrefixOwners::Owner> owners = owners_.Find(sequence.PromptKeys(kKeyTokens));
  const uint64_t tokens = sequence.known_tokens();
  std::optional<StepCost> fastest;  // one that is not known yet gets its share, and no more
  Executor* best = nullptr;
  std::pair<bool, double> least;
  for (Executor& executor : executors_) {
    const ExecutorLoad& load = executor.load;
    const uint64_t sequences = uint64_t{load.running} + executor.offered;
    const uint64_t blocks = BlocksFor(tokens, load.kv_block_tokens) + executor.offered_blocks;
    // As Batch admits, but for blocks that are in use and could be shared.
    if (sequences >= load.max_sequences || blocks + sequences > load.available_kv_blocks ||
        BlocksFor(sequence.max_kv_tokens(), load.kv_block_tokens) > load.num_kv_blocks) {
      continue;
    }
    if (!load.cost.has_value() && !fastest.has_value()) {
      fastest = FastestKnown();
    }
    const StepCost& cost = load.cost.has_value() ? *load.cost : *fastest;
    uint64_t prompt = tokens + load.prompt_tokens + executor.offered_tokens;
    for (const PrefixOwners::Owner& owner : owners) {
      prompt -= owner.executor == executor.id ? uint64_t{owner.keys} * kKeyTokens : 0;
    }
    const double owed = load.owes_since < now ? absl::ToDoubleSeconds(now - load.owes_since) : 0;
    const double seconds = owed + cost.token * static_cast<double>(prompt) +
                           kAnswerTokens * cost.Seconds(static_cast<double>(sequences + 1));
    const bool tight = 10 * (load.available_kv_blocks - blocks) < load.num_kv_blocks;
    if (const std::pair<bool, double> rank(tight, seconds); best == nullptr || rank < least) {
      best = &executor;
      least = rank;
    }
  }
  return best;
}

absl::Time Balancer::MakeOffer(const Sequence& sequence, Executor& executor, absl::Time now) {
  OfferMade offer;
  offer.executor = executor.id;
  offer.end = now + kOfferTime;
  offer.tokens = sequence.known_tokens();
  offer.blocks = BlocksFor(offer.tokens, executor.load.kv_block_tokens);
  executor.offered += 1;
  executor.offered_tokens += offer.tokens;
  executor.offered_blocks += offer.blocks;
  ends_.emplace_back(offer.end, sequence.id());
  offers_[sequence.id()] = offer;
  executor.wake();
  return offer.end;
}

void Balancer::EndOffer(std::unordered_map<uint64_t, OfferMade>::iterator offer) {
  if (Executor* executor = Find(offer->second.executor); executor != nullptr) {
    executor->offered -= 1;
    executor->offered_tokens -= offer->second.tokens;
    executor->offered_blocks -= offer->second.blocks;
  }
  offers_.erase(offer);
}

void Balancer::EndOldOffers(absl::Time now) {
  for (; !ends_.empty() && ends_.front().first <= now; ends_.pop_front()) {
    const auto offer = offers_.find(ends_.front().second);
    if (offer != offers_.end() && offer->second.end == ends_.front().first) {
      EndOffer(offer);
    }
  }
}

void Balancer::Offer(const Sequence& sequence, absl::Time now) {
  const std::lock_guard lock(mutex_);
  EndOldOffers(now);
  if (Executor* best = Choose(sequence, now); best != nullptr) {
    MakeOffer(sequence, *best, now);
  }
}

void Balancer::Queued(uint64_t sequence_id) {
  const std::lock_guard lock(mutex_);
  const auto offer = offers_.find(sequence_id);
  for (const Executor& executor : executors_) {
    const bool room = executor.load.running < executor.load.max_sequences && executor.load.available_kv_blocks > 0;
    if (offer == offers_.end() ? room : executor.id == offer->second.executor) {
      executor.wake();
    }
  }
}

void Balancer::Withdraw(uint64_t sequence_id) {
  const std::lock_guard lock(mutex_);
  if (const auto offer = offers_.find(sequence_id); offer != offers_.end()) {
    EndOffer(offer);
  }
}

absl::Time Balancer::OfferedToAnother(uint32_t executor, const Sequence& sequence, absl::Time now) {
  const std::lock_guard lock(mutex_);
  EndOldOffers(now);
  const auto offer = offers_.find(sequence.id());
  return offer == offers_.end() || offer->second.executor == executor ? absl::InfinitePast() : offer->second.end;
}

absl::Time Balancer::PreferAnother(uint32_t executor, const Sequence& sequence, absl::Time now) {
  const std::lock_guard lock(mutex_);
  if (offers_.find(sequence.id()) != offers_.end()) {
    return absl::InfinitePast();  // it is this one's
  }
  Executor* best = Choose(sequence, now);
  if (best == nullptr || best->id == executor) {
    return absl::InfinitePast();
  }
  return MakeOffer(sequence, *best, now);
}

absl::Time Balancer::Refuse(uint32_t executor, const Sequence& sequence, absl::Time now) {
  const std::lock_guard lock(mutex_);
  const auto offer = offers_.find(sequence.id());
  if (offer == offers_.end()) {
    return absl::InfinitePast();
  }
  EndOffer(offer);
  if (Executor* full = Find(executor); full != nullptr) {
    full->load.available_kv_blocks = 0;  // until it says more
  }
  Executor* best = Choose(sequence, now);
  return best == nullptr ? absl::InfinitePast() : MakeOffer(sequence, *best, now);
}

void Balancer::Take(uint32_t executor, const Sequence& sequence) {
  const std::lock_guard lock(mutex_);
  if (const auto offer = offers_.find(sequence.id()); offer != offers_.end()) {
    EndOffer(offer);
  }
  owners_.Add(sequence.PromptKeys(kKeyTokens), executor);
  if (Executor* found = Find(executor); found != nullptr) {
    // Until it says more.
    const uint64_t blocks = BlocksFor(sequence.known_tokens(), found->load.kv_block_tokens);
    found->load.running += 1;
    found->load.prompt_tokens += sequence.known_tokens();
    found->load.available_kv_blocks -= std::min<uint64_t>(blocks, found->load.available_kv_blocks);
  }
}

}  // namespace flexquant::controller
