#ifndef FLEXQUANT_CONTROLLER_STEPS_IN_FLIGHT_H_
#define FLEXQUANT_CONTROLLER_STEPS_IN_FLIGHT_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "controller/batch.h"
#include "controller/step.h"
#include "controller/work_times.h"

namespace flexquant::controller {

// The steps that an executor owes results of, and what a result does. Executors are trusted as little as any peer:
// every result is held against its step. Knows nothing of the network. Not thread-safe.
class StepsInFlight {
 public:
  struct Step {
    uint64_t step_id = 0;
    absl::Time sent;
    uint64_t tokens = 0;  // computed, of prompts and answers
    std::vector<uint64_t> sequence_ids;
    std::vector<bool> sampled;  // which of them ask for a token
    std::optional<StepWork> work;
  };
  // What becomes of a sequence, which has left the batch, when the executor will not go on with it.
  using Refused = absl::FunctionRef<void(std::unique_ptr<Sequence>)>;
  // A sequence of the batch got a token.
  using Counted = absl::FunctionRef<void(const Sequence&)>;

  void Add(uint64_t step_id, const std::vector<SequenceStep>& sequences, absl::Time now,
           std::optional<StepWork> work = std::nullopt);
  // Takes the step that `result` answers. UNAVAILABLE, and the stream must be given up, if it is not the next one owed
  // or has other sequences.
  absl::StatusOr<Step> Take(const StepResult& result);
  // Gives the sequences of `batch` their parts of the result of `step`: a token, or an end that names `executor`.
  // UNAVAILABLE, and the stream must be given up, if a token is missing.
  static absl::Status Apply(const Step& step, const StepResult& result, absl::string_view executor, Batch& batch,
                            absl::Time now, Counted counted, Refused refused);

  bool empty() const { return steps_.empty(); }
  size_t size() const { return steps_.size(); }
  const Step& front() const { return steps_.front(); }
  void Clear() { steps_.clear(); }

 private:
  std::deque<Step> steps_;
};

}  // namespace flexquant::controller

#endif  // FLEXQUANT_CONTROLLER_STEPS_IN_FLIGHT_H_
