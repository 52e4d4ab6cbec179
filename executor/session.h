#ifndef FLEXQUANT_EXECUTOR_SESSION_H_
#define FLEXQUANT_EXECUTOR_SESSION_H_

#include <cstdint>
#include <optional>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "executor/engine.h"
#include "flexquant/executor/v1/executor.pb.h"
#include "kernels/sampling.h"

namespace flexquant::executor {

// The state of one Execute stream: plans, sequences and what may come next, exactly as executor.proto says. Knows
// nothing of gRPC. Not thread-safe; different sessions may share an engine. KV block ids are the controller's: two
// sequences may name the same block, also in different sessions (of the same controller: ExecutorService sees to that).
class Session {
 public:
  // `engine` must outlive the session.
  explicit Session(Engine& engine)
      : engine_(engine), top_plan_(PrecisionPlan::Uniform(kTopPrecision, engine.info().num_layer_groups)) {}

  // Handles the next message of the stream, which arrived at `received`. Leaves `response` without a message if there
  // is nothing to send. Not OK: the stream must end with this status, and nothing more may be handled.
  absl::Status Handle(const v1::ExecuteRequest& request, absl::Time received, v1::ExecuteResponse* response);

  size_t num_sequences() const { return sequences_.size(); }

 private:
  struct Sequence {
    SamplingConfig sampling;
    bool count_tokens = false;  // penalties are on
    uint32_t top_logprobs = 0;
    uint32_t prompt_tokens = 0;
    bool full_logits = false;
    std::vector<uint32_t> blocks;
    uint32_t length = 0;                   // tokens in the KV cache
    std::optional<uint32_t> last_sampled;  // not yet in the KV cache
    TokenCounts counts;
  };
  // A sequence of the step that passed its checks.
  struct Admitted {
    Sequence* sequence = nullptr;
    const v1::SequenceStep* request = nullptr;
    v1::SequenceResult* result = nullptr;
    std::vector<uint32_t> tokens;
    std::vector<float> top_logits;  // of an audit
  };

  absl::Status HandleOpen(const v1::OpenStream& open, v1::StreamOpened* opened);
  absl::Status HandlePlans(const v1::PlanTable& table);
  absl::Status HandleStep(const v1::StepRequest& step, absl::Time received, v1::StepResult* result);
  absl::Status HandleRelease(const v1::ReleaseSequences& release);

  // Checks one sequence and, if it is fine, makes or extends it. Otherwise it is unchanged.
  absl::StatusOr<Admitted> Admit(const v1::SequenceStep& request);
  absl::StatusOr<Sequence> MakeSequence(const v1::SequenceStep& request) const;
  // Computes the audited sequences at the top precision and keeps their logits; adds the bytes that were read. The step
  // itself must follow: it writes the same positions of the KV cache.
  absl::Status Audit(std::vector<Admitted>& admitted, uint64_t* weight_bytes_read);
  SequenceInput MakeInput(const Admitted& admitted) const;
  void Finish(const Admitted& admitted, const SequenceOutput& output);

  Engine& engine_;
  const PrecisionPlan top_plan_;
  bool open_ = false;
  uint64_t last_step_id_ = 0;
  std::unordered_map<uint32_t, PrecisionPlan> plans_;
  std::unordered_map<uint64_t, Sequence> sequences_;
};

}  // namespace flexquant::executor

#endif  // FLEXQUANT_EXECUTOR_SESSION_H_
