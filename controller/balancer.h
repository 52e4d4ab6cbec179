#ifndef FLEXQUANT_CONTROLLER_BALANCER_H_
#define FLEXQUANT_CONTROLLER_BALANCER_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "controller/prefix_owners.h"
#include "controller/sequence.h"
#include "controller/step_times.h"

namespace flexquant::controller {

// What an executor's worker says of it.
struct ExecutorLoad {
  uint32_t num_kv_blocks = 0;
  uint32_t kv_block_tokens = 1;
  uint32_t max_sequences = 1;
  uint32_t available_kv_blocks = 0;  // but for those that running sequences' known tokens will take
  uint32_t running = 0;              // sequences
  uint64_t prompt_tokens = 0;        // of theirs, not yet computed
  std::optional<StepCost> cost;      // unset before its first step
  // When the oldest step without a result was sent; InfiniteFuture = none.
  absl::Time owes_since = absl::InfiniteFuture();
};

// Which executor takes a waiting request. There is one queue, which says whose turn it is, and each executor's worker
// takes from it; the balancer says whether the worker that looks should leave a request to a better one. The best is
// that which would have the request's first 32 answer tokens earliest: it computes the prompts that it has already,
// then this one but for the beginning that it has in its cache, then steps with one sequence more, each at the speed
// that its own steps had. So an executor that knows the beginning of a prompt gets it unless the others' lesser load
// outweighs what that saves, and a slow one gets as much less as it is slower. Executors that are full are not asked,
// and those of whose KV blocks less than a tenth would be left only if all are so.
//
// A request is offered to the best executor as it comes, and its worker woken; until it has looked, others leave the
// request alone, and it counts as that executor's load. When the executor turns out to be full, or has not looked
// within 50 ms, the others may take it: an offer is never waited for. Is every executor full, there is no offer, and
// whoever has room again first takes the request whose turn it is, as long as no better one has room too. Order,
// priorities and tenants' turns are the queue's alone. Thread-safe; locks nothing else but Wakeups.
class Balancer {
 public:
  static constexpr absl::Duration kOfferTime = absl::Milliseconds(50);

  Balancer();

  // An executor takes requests from now on; returns what it is called here, a number that never comes again. `wake`
  // must not call back.
  uint32_t Join(const ExecutorLoad& load, std::function<void()> wake);
  // It takes none any more; unknown ones are ignored. What it was offered is anybody's.
  void Leave(uint32_t executor);
  // To be called whenever it has changed: before the executor's worker looks into the queue, so that a request that
  // comes meanwhile is either seen there or offered by what is said here, and after it.
  void Update(uint32_t executor, const ExecutorLoad& load);

  // Offers a request that is about to be queued, if an executor has room.
  void Offer(const Sequence& sequence, absl::Time now);
  // Wakes who has been offered it, or, if nobody, all that have any room: one may have got it since.
  void Queued(uint64_t sequence_id);
  // It has not been queued.
  void Withdraw(uint64_t sequence_id);

  // What the worker of `executor` asks about a request whose turn it is. Until when it is to leave it to another one;
  // InfinitePast if it need not.
  // Before it finds out whether the request fits: it may be offered to another one.
  absl::Time OfferedToAnother(uint32_t executor, const Sequence& sequence, absl::Time now);
  // It fits here: another one may be better, which is woken.
  absl::Time PreferAnother(uint32_t executor, const Sequence& sequence, absl::Time now);
  // It does not fit here now: if it was offered here, another one may have it, which is woken.
  absl::Time Refuse(uint32_t executor, const Sequence& sequence, absl::Time now);
  // It takes it.
  void Take(uint32_t executor, const Sequence& sequence);

 private:
  struct Executor {
    uint32_t id = 0;
    ExecutorLoad load;
    std::function<void()> wake;
    // Of requests offered to it.
    uint32_t offered = 0;
    uint64_t offered_tokens = 0;
    uint64_t offered_blocks = 0;
  };
  struct OfferMade {
    uint32_t executor = 0;
    absl::Time end;
    uint64_t tokens = 0;
    uint64_t blocks = 0;
  };

  // All need mutex_.
  Executor* Find(uint32_t id);
  // Null if none has room.
  Executor* Choose(const Sequence& sequence, absl::Time now);
  // Wakes it; returns the offer's end.
  absl::Time MakeOffer(const Sequence& sequence, Executor& executor, absl::Time now);
  void EndOffer(std::unordered_map<uint64_t, OfferMade>::iterator offer);
  void EndOldOffers(absl::Time now);
  StepCost FastestKnown() const;

  mutable std::mutex mutex_;
  uint32_t last_id_ = 0;
  std::vector<Executor> executors_;                   // by id
  std::unordered_map<uint64_t, OfferMade> offers_;    // by sequence id
  std::deque<std::pair<absl::Time, uint64_t>> ends_;  // of offers, some of which have ended before, by sequence id
  PrefixOwners owners_;
};

}  // namespace flexquant::controller

#endif  // FLEXQUANT_CONTROLLER_BALANCER_H_
