#include "controller/executor_rounds.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/nanoseconds.h"
#include "common/status_macros.h"
#include "proto/grpc_status.h"
#include "spdlog/spdlog.h"

namespace flexquant::controller {
namespace {

constexpr absl::Duration kRetryDelay = absl::Seconds(1);

// The worker alone writes: no read and write as one are needed, which would cost more.
void Add(ExecutorFigures::Number& number, uint64_t count) {
  number.store(number.load(std::memory_order_relaxed) + count, std::memory_order_relaxed);
}

}  // namespace

absl::Status LostError(const Sequence& sequence, absl::string_view reason) {
  // What has sent tokens must not be retried as if nothing had happened.
  if (sequence.has_answer_tokens()) {
    return WithErrorInfo(
        absl::AbortedError(absl::StrCat(reason, "; the answer so far stands: resume it, or send the request again")),
        "EXECUTOR_LOST");
  }
  return WithRetryDelay(WithErrorInfo(absl::UnavailableError(reason), "EXECUTOR_LOST"), kRetryDelay);
}

ExecutorRounds::ExecutorRounds(const ExecutorDescription& description, const WorkerOptions& options, ExecutorLink& link,
                               RequestQueue& queue, Balancer& balancer, ExecutorFigures& figures, Hooks hooks)
    : options_(options),
      link_(link),
      queue_(queue),
      balancer_(balancer),
      figures_(figures),
      hooks_(std::move(hooks)),
      batch_(description.num_kv_blocks, description.kv_block_tokens,
             {description.max_sequences, description.max_step_tokens, options.prefill_chunk_tokens,
              description.audits ? options.audit_rate : 0, options.max_step_time, description.settings},
             options.groups) {
  Join();
}

ExecutorRounds::~ExecutorRounds() {
  if (place_.has_value()) {
    balancer_.Leave(*place_);
  }
}

ExecutorLoad ExecutorRounds::Load() const {
  ExecutorLoad load = batch_.Load();
  if (!step_times_.empty()) {
    load.cost = step_times_.cost();
  }
  if (!in_flight_.empty()) {
    load.owes_since = in_flight_.front().sent;
  }
  return load;
}

absl::Status ExecutorRounds::Round(bool listed, absl::Time now) {
  // The stream's end is looked at before the results are taken, so that none that came before it is lost.
  const absl::Status stream = link_.StreamStatus();
  for (const StepResult& result : link_.TakeResults()) {
    FQ_RETURN_IF_ERROR(ApplyResult(result, now));
  }
  EndUnwanted(now);
  if (!stream.ok()) {
    batch_.RemoveEnded();
    return absl::UnavailableError(absl::StrCat("executor ", link_.address(), ": ", stream.message()));
  }
  if (!in_flight_.empty() && now - in_flight_.front().sent > options_.step_timeout) {
    return absl::UnavailableError(absl::StrCat("executor ", link_.address(), " has not answered step ",
                                               in_flight_.front().step_id, " within ",
                                               absl::FormatDuration(options_.step_timeout)));
  }
  if (const std::vector<uint64_t> ended = batch_.RemoveEnded(); !ended.empty()) {
    link_.SendRelease(ended);
  }
  look_again_ = absl::InfiniteFuture();
  if (link_.draining() || !listed) {
    Leave();
  } else {
    if (leaving()) {
      Join();  // listed again
    } else {
      balancer_.Update(*place_, Load());
    }
    look_again_ = batch_.Admit(queue_, now, &balancer_, *place_);
  }
  SendSteps(now);
  if (place_.has_value()) {
    balancer_.Update(*place_, Load());
  }
  CountBatch();
  return absl::OkStatus();
}

absl::Status ExecutorRounds::ApplyResult(const StepResult& result, absl::Time now) {
  const auto lost = [&](const absl::Status& status) {
    return absl::UnavailableError(absl::StrCat("executor ", link_.address(), " ", status.message()));
  };
  const absl::StatusOr<StepsInFlight::Step> step = in_flight_.Take(result);
  if (!step.ok()) {
    return lost(step.status());
  }
  CountResult(result, *step, now - step->sent);
  if (step->work.has_value()) {
    batch_.Took(*step->work, std::min(result.compute_time, now - step->sent));
  }
  const absl::Status applied = StepsInFlight::Apply(
      *step, result, link_.address(), batch_, now,
      [this](const Sequence& sequence) {
        if (!sequence.tenant().empty()) {
          queue_.Served(sequence.tenant(), 1);
        }
      },
      [this](std::unique_ptr<Sequence> sequence) {
        // It shuts down, and its word for that may still be on its way. One that refuses for ever does not get round
        // the limit of losses, and one that has made the sequence all the same forgets it.
        link_.SendRelease({sequence->executor_id()});
        if (!link_.draining()) {
          sequence->CountLoss();
        }
        ReturnOrFail(std::move(sequence), "it does not take the request");
        hooks_.returned();
      });
  return applied.ok() ? applied : lost(applied);
}

void ExecutorRounds::ReturnOrFail(std::unique_ptr<Sequence> sequence, absl::string_view reason) {
  if (sequence->losses() < options_.max_losses) {
    queue_.Return(std::move(sequence));
    return;
  }
  sequence->Fail(LostError(*sequence, absl::StrCat("the request lost ", sequence->losses(),
                                                   " executors without a token in between, the last one: ", reason)));
}

void ExecutorRounds::EndUnwanted(absl::Time now) {
  for (const auto& sequence : batch_.running()) {
    if (sequence->ended()) {
      continue;
    }
    if (const EndCause cause = sequence->end_cause(); cause != EndCause::kNone) {
      sequence->Fail(StatusOf(cause));
    } else if (sequence->deadline() <= now) {
      sequence->Fail(absl::DeadlineExceededError("the deadline passed while the answer was generated"));
    } else if (sequence->paused() && now - sequence->paused_since() > options_.slow_reader_timeout) {
      sequence->Fail(
          WithErrorInfo(absl::ResourceExhaustedError(absl::StrCat("the client has read nothing for ",
                                                                  absl::FormatDuration(options_.slow_reader_timeout),
                                                                  "; read the stream, or ask for fewer tokens")),
                        "SLOW_READER"));
    }
  }
  queue_.FailExpired(now);
}

void ExecutorRounds::Join() {
  place_ = balancer_.Join(Load(), hooks_.wake);
  hooks_.ready_changed(true, absl::OkStatus());
}

void ExecutorRounds::Leave() {
  if (place_.has_value()) {
    balancer_.Leave(*std::exchange(place_, std::nullopt));
    const std::string reason =
        absl::StrCat("executor ", link_.address(), link_.draining() ? " is shutting down" : " is not listed any more");
    spdlog::info("{}", reason);
    hooks_.ready_changed(false, absl::UnavailableError(reason));
  }
  if (empty() || !hooks_.other_ready()) {
    return;  // it may finish what it has
  }
  ReturnToQueue(batch_.TakeAll(), figures_.moved);
  hooks_.returned();
}

void ExecutorRounds::ReturnToQueue(std::vector<std::unique_ptr<Sequence>> sequences, ExecutorFigures::Number& counted) {
  if (sequences.empty()) {
    return;
  }
  std::vector<uint64_t> released;
  for (std::unique_ptr<Sequence>& sequence : sequences) {
    released.push_back(sequence->executor_id());
    queue_.Return(std::move(sequence));
  }
  link_.SendRelease(released);
  Add(counted, released.size());
}

void ExecutorRounds::SendSteps(absl::Time now) {
  while (in_flight_.size() <= static_cast<size_t>(options_.lookahead)) {
    const absl::Time begun = absl::Now();
    const std::vector<SequenceStep> step = batch_.Compose(now);
    CountStep(step, absl::Now() - begun);
    ReturnToQueue(batch_.TakePreempted(), figures_.preemptions);
    if (step.empty()) {
      return;
    }
    in_flight_.Add(link_.SendStep(step), step, now, batch_.Work(step));
  }
}

void ExecutorRounds::CountStep(const std::vector<SequenceStep>& step, absl::Duration plan_time) {
  Add(figures_.plan_ns, Nanoseconds(plan_time));
  for (const SequenceStep& part : step) {
    Add(figures_.step_tokens, std::max<size_t>(part.token_ids.size(), 1));
    if (part.start.has_value()) {
      Add(figures_.prefix_tokens, part.start->prompt_tokens);
      Add(figures_.prefix_hits, part.start->cached_token_ids.size());
    }
    const auto num_groups = static_cast<int>(part.plan.bits.size());
    for (int group = 0; part.sample && group < num_groups; ++group) {
      const LayerGroupKind kind = LayerGroupKindOf(group, num_groups / kLayerGroupsPerBlock);
      Add(figures_.group_tokens[static_cast<size_t>(kind)][part.plan.bits[static_cast<size_t>(group)]], 1);
    }
  }
}

void ExecutorRounds::CountResult(const StepResult& result, const StepsInFlight::Step& step, absl::Duration since_sent) {
  // What it says of itself does not count for more than what it was seen to take.
  step_times_.Add(step.tokens, std::min(result.compute_time, since_sent));
  Add(figures_.steps, 1);
  Add(figures_.weight_bytes, result.weight_bytes_read);
  Add(figures_.queue_ns, Nanoseconds(result.queue_time));
  Add(figures_.compute_ns, Nanoseconds(result.compute_time));
  Add(figures_.wire_ns, Nanoseconds(since_sent - result.queue_time - result.compute_time));
  for (const SequenceResult& part : result.sequences) {
    if (part.audit_kl.has_value()) {
      Add(figures_.audits, 1);
      Add(figures_.audit_kl_nnats, static_cast<uint64_t>(*part.audit_kl * 1e9));
    }
  }
}

void ExecutorRounds::CountBatch() {
  figures_.running = batch_.running().size();
  figures_.kv_blocks = batch_.kv().num_blocks();
  figures_.kv_blocks_used = batch_.kv().num_blocks() - batch_.kv().num_available();
}

void ExecutorRounds::GiveBack(const absl::Status& reason, bool stopping) {
  if (place_.has_value()) {
    balancer_.Leave(*std::exchange(place_, std::nullopt));
  }
  in_flight_.Clear();
  for (std::unique_ptr<Sequence>& sequence : batch_.TakeAll()) {
    if (stopping) {
      sequence->Fail(
          WithRetryDelay(WithErrorInfo(absl::UnavailableError(reason.message()), "SHUTTING_DOWN"), kRetryDelay));
      continue;
    }
    sequence->CountLoss();
    Add(figures_.moved, 1);
    ReturnOrFail(std::move(sequence), reason.message());
  }
  hooks_.returned();
}

absl::Time ExecutorRounds::NextTimeout() const {
  absl::Time next = std::min(queue_.NextDeadline(), look_again_);
  for (const auto& sequence : batch_.running()) {
    next = std::min(next, sequence->deadline());
    if (sequence->paused_since() != absl::InfiniteFuture()) {
      next = std::min(next, sequence->paused_since() + options_.slow_reader_timeout + absl::Milliseconds(1));
    }
  }
  if (!in_flight_.empty()) {
    next = std::min(next, in_flight_.front().sent + options_.step_timeout + absl::Milliseconds(1));
  }
  return next;
}

}  // namespace flexquant::controller
