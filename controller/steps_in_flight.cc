#include "controller/steps_in_flight.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/grpc_status.h"

namespace flexquant::controller {
namespace {

absl::Status Violation(uint64_t step_id, absl::string_view what) {
  return absl::UnavailableError(absl::StrCat("broke the protocol: ", what, " (step ", step_id, ")"));
}

// A mistake the controller made towards the executor is not the client's.
absl::Status SequenceError(absl::string_view executor, const absl::Status& status) {
  absl::StatusCode code = status.code();
  if (code == absl::StatusCode::kInvalidArgument || code == absl::StatusCode::kNotFound ||
      code == absl::StatusCode::kFailedPrecondition || code == absl::StatusCode::kOutOfRange) {
    code = absl::StatusCode::kInternal;
  }
  return WithErrorInfo(absl::Status(code, absl::StrCat("executor ", executor, ": ", status.message())),
                       "EXECUTOR_SEQUENCE_ERROR");
}

}  // namespace

void StepsInFlight::Add(uint64_t step_id, const std::vector<SequenceStep>& sequences, absl::Time now,
                        std::optional<StepWork> work) {
  Step& step = steps_.emplace_back(Step{step_id, now, 0, {}, {}, work});
  for (const SequenceStep& part : sequences) {
    step.sequence_ids.push_back(part.sequence_id);
    step.sampled.push_back(part.sample);
    step.tokens += std::max<size_t>(part.token_ids.size(), 1);
  }
}

absl::StatusOr<StepsInFlight::Step> StepsInFlight::Take(const StepResult& result) {
  if (steps_.empty() || steps_.front().step_id != result.step_id) {
    return Violation(result.step_id, "a result of a step that is not the next one owed");
  }
  Step step = std::move(steps_.front());
  steps_.pop_front();
  if (result.sequences.size() != step.sequence_ids.size()) {
    return Violation(result.step_id, "a result with another number of sequences than its step");
  }
  for (size_t i = 0; i < step.sequence_ids.size(); ++i) {
    if (result.sequences[i].sequence_id != step.sequence_ids[i]) {
      return Violation(result.step_id, "a result with other sequences than its step");
    }
  }
  return step;
}

absl::Status StepsInFlight::Apply(const Step& step, const StepResult& result, absl::string_view executor, Batch& batch,
                                  absl::Time now, Counted counted, Refused refused) {
  for (size_t i = 0; i < step.sequence_ids.size(); ++i) {
    const SequenceResult& part = result.sequences[i];
    Sequence* sequence = batch.Find(part.sequence_id);
    if (sequence == nullptr || sequence->ended()) {
      continue;  // the step left before its stop was known, or the sequence left
    }
    if (part.status.ok() && step.sampled[i] && !part.token.has_value()) {
      return Violation(result.step_id, "no token for a sequence that samples");
    }
    if (absl::IsUnavailable(part.status)) {
      refused(batch.Take(part.sequence_id));
    } else if (!part.status.ok()) {
      sequence->Fail(SequenceError(executor, part.status));
    } else if (part.token.has_value()) {
      counted(*sequence);
      sequence->Accept(*part.token, part.audit_kl, now);
      batch.Accepted(*sequence);
    }
  }
  return absl::OkStatus();
}

}  // namespace flexquant::controller
