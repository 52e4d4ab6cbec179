#include "executor/session.h"

#include <algorithm>
#include <bit>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/nanoseconds.h"
#include "common/status_macros.h"
#include "executor/session_validation.h"
#include "kernels/kernels.h"

namespace flexquant::executor {
namespace {

constexpr uint32_t kMaxTopLogprobs = 20;
constexpr size_t kMaxInstanceIdBytes = 128;
constexpr int kMaxReleasedSequences = 65'536;

void SetStatus(const absl::Status& status, v1::SequenceResult* result) {
  result->set_code(static_cast<int32_t>(status.code()));
  result->set_message(std::string(status.message()));
}

void ToProto(const SampledToken& token, v1::SampledToken* proto) {
  proto->set_id(token.id);
  proto->set_entropy_nats(token.stats.entropy_nats);
  proto->set_top1_probability(token.stats.top1_probability);
  proto->set_margin(token.stats.margin);
  proto->set_logprob(token.logprob);
  for (const auto& [id, logprob] : token.top) {
    proto->add_top_ids(id);
    proto->add_top_logprobs(logprob);
  }
}

// KL(p || q) of two distributions' logits, in nats.
double Divergence(const std::vector<float>& p, absl::Span<const float> q) {
  const CpuKernels& kernels = GetCpuKernels(BestIsa());
  const auto vocab = static_cast<int64_t>(p.size());
  return kernels.kl_divergence(p.data(), kernels.logit_stats(p.data(), vocab).log_sum_exp, q.data(),
                               kernels.logit_stats(q.data(), vocab).log_sum_exp, vocab);
}

}  // namespace

absl::Status Session::Handle(const v1::ExecuteRequest& request, absl::Time received, v1::ExecuteResponse* response) {
  response->Clear();
  if (request.message_case() == v1::ExecuteRequest::MESSAGE_NOT_SET) {
    return absl::InvalidArgumentError("a message has none of open, plans, step and release set");
  }
  if (open_ == request.has_open()) {
    return absl::FailedPreconditionError(open_ ? "`open` may only be the first message of a stream"
                                               : "the first message of a stream must be `open`");
  }
  switch (request.message_case()) {
    case v1::ExecuteRequest::kOpen:
      return HandleOpen(request.open(), response->mutable_opened());
    case v1::ExecuteRequest::kPlans:
      return HandlePlans(request.plans());
    case v1::ExecuteRequest::kStep:
      return HandleStep(request.step(), received, response->mutable_result());
    default:
      return HandleRelease(request.release());
  }
}

absl::Status Session::HandleOpen(const v1::OpenStream& open, v1::StreamOpened* opened) {
  const std::string& expected = open.expected_instance_id();
  if (expected.size() > kMaxInstanceIdBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("expected_instance_id has ", expected.size(), " bytes; at most ", kMaxInstanceIdBytes));
  }
  if (!expected.empty() && expected != engine_.instance_id()) {
    return absl::AbortedError(absl::StrCat("instance '", expected, "' is gone, this is '", engine_.instance_id(),
                                           "': the executor restarted and holds nothing of the old epoch"));
  }
  FQ_RETURN_IF_ERROR(HandlePlans(open.plans()));
  open_ = true;
  opened->set_instance_id(engine_.instance_id());
  return absl::OkStatus();
}

absl::Status Session::HandlePlans(const v1::PlanTable& table) {
  if (static_cast<uint32_t>(table.plans_size()) > kMaxPlans) {
    return absl::InvalidArgumentError(
        absl::StrCat("a message brings ", table.plans_size(), " plans; at most ", kMaxPlans, " have an id"));
  }
  for (const v1::Plan& plan : table.plans()) {
    FQ_ASSIGN_OR_RETURN(PrecisionPlan parsed, ParsePlan(plan, engine_.info()));
    plans_[plan.plan_id()] = std::move(parsed);
  }
  return absl::OkStatus();
}

absl::Status Session::HandleStep(const v1::StepRequest& step, absl::Time received, v1::StepResult* result) {
  if (step.step_id() != last_step_id_ + 1) {
    return absl::FailedPreconditionError(absl::StrCat("step_id is ", step.step_id(), "; expected ", last_step_id_ + 1,
                                                      " (steps run once and in order)"));
  }
  FQ_RETURN_IF_ERROR(ValidateStep(step, engine_.info()));
  for (const v1::SequenceStep& request : step.sequences()) {
    if (plans_.count(request.plan_id()) == 0) {
      return absl::InvalidArgumentError(absl::StrCat("step ", step.step_id(), ", sequence ", request.sequence_id(),
                                                     ": plan ", request.plan_id(), " was not sent on this stream"));
    }
  }
  last_step_id_ = step.step_id();
  result->set_step_id(step.step_id());

  std::vector<Admitted> admitted;
  for (const v1::SequenceStep& request : step.sequences()) {
    v1::SequenceResult* sequence_result = result->add_sequences();
    sequence_result->set_sequence_id(request.sequence_id());
    absl::StatusOr<Admitted> one = Admit(request);
    if (!one.ok()) {
      SetStatus(one.status(), sequence_result);
      continue;
    }
    one->result = sequence_result;
    admitted.push_back(*std::move(one));
  }

  absl::Time start = absl::Now();
  if (!admitted.empty()) {
    uint64_t audit_bytes = 0;
    FQ_RETURN_IF_ERROR(Audit(admitted, &audit_bytes));
    StepBatch batch;
    for (const Admitted& one : admitted) {
      batch.sequences.push_back(MakeInput(one));
    }
    FQ_RETURN_IF_ERROR(engine_.RunStep(
        batch, [&] { start = absl::Now(); },
        [&](const StepOutput& output) {
          for (size_t i = 0; i < admitted.size(); ++i) {
            Finish(admitted[i], output.sequences[i]);
          }
          result->set_weight_bytes_read(audit_bytes + output.weight_bytes_read);
        }));
  }
  result->set_compute_ns(Nanoseconds(absl::Now() - start));
  result->set_queue_ns(Nanoseconds(start - received));
  return absl::OkStatus();
}

absl::Status Session::HandleRelease(const v1::ReleaseSequences& release) {
  if (release.sequence_ids_size() > kMaxReleasedSequences) {
    return absl::InvalidArgumentError(absl::StrCat("a message releases ", release.sequence_ids_size(),
                                                   " sequences; at most ", kMaxReleasedSequences, " at a time"));
  }
  for (const uint64_t id : release.sequence_ids()) {
    sequences_.erase(id);
  }
  return absl::OkStatus();
}

absl::StatusOr<Session::Admitted> Session::Admit(const v1::SequenceStep& request) {
  auto found = sequences_.find(request.sequence_id());
  std::optional<Sequence> made;
  if (request.has_start()) {
    if (found != sequences_.end()) {
      return absl::FailedPreconditionError(absl::StrCat(
          "sequence ", request.sequence_id(), " exists; `start` is for its first step only: release it first"));
    }
    FQ_ASSIGN_OR_RETURN(made, MakeSequence(request));
  } else if (found == sequences_.end()) {
    return absl::NotFoundError(
        absl::StrCat("no sequence ", request.sequence_id(), " on this stream; its first step must have `start` set"));
  }
  Sequence& current = made.has_value() ? *made : found->second;

  Admitted admitted;
  admitted.request = &request;
  if (request.token_ids().empty()) {
    if (!current.last_sampled.has_value()) {
      return absl::FailedPreconditionError(
          absl::StrCat("sequence ", request.sequence_id(),
                       " has no sampled token to go on from; send token_ids, or set `sample` in the step before"));
    }
    admitted.tokens = {*current.last_sampled};
  } else {
    admitted.tokens.assign(request.token_ids().begin(), request.token_ids().end());
  }
  const SequenceExtent held{current.length, current.blocks.size(), current.prompt_tokens};
  FQ_RETURN_IF_ERROR(
      ValidateSequenceStep(request, static_cast<uint32_t>(admitted.tokens.size()), held, engine_.info()));

  if (made.has_value()) {
    found = sequences_.emplace(request.sequence_id(), *std::move(made)).first;
  }
  Sequence& sequence = found->second;
  admitted.sequence = &sequence;
  sequence.blocks.insert(sequence.blocks.end(), request.new_kv_blocks().begin(), request.new_kv_blocks().end());
  sequence.last_sampled.reset();
  for (const uint32_t token : admitted.tokens) {
    if (sequence.count_tokens) {
      sequence.length < sequence.prompt_tokens ? sequence.counts.AddPrompt(token) : sequence.counts.AddAnswer(token);
    }
    ++sequence.length;
  }
  return admitted;
}

absl::StatusOr<Session::Sequence> Session::MakeSequence(const v1::SequenceStep& request) const {
  const v1::SequenceStart& start = request.start();
  if (engine_.draining()) {
    return absl::UnavailableError("the executor is shutting down and takes no new sequences");
  }
  if (sequences_.size() >= engine_.info().kv_blocks) {
    return absl::ResourceExhaustedError(absl::StrCat("this stream has ", sequences_.size(),
                                                     " sequences, as many as there are KV blocks; release some"));
  }
  if (start.top_logprobs() > kMaxTopLogprobs) {
    return absl::InvalidArgumentError(
        absl::StrCat("start.top_logprobs is ", start.top_logprobs(), "; allowed: 0 to ", kMaxTopLogprobs));
  }
  if (start.prompt_tokens() > static_cast<uint64_t>(engine_.info().max_context)) {
    return absl::InvalidArgumentError(absl::StrCat("start.prompt_tokens is ", start.prompt_tokens(),
                                                   "; the model's context is ", engine_.info().max_context, " tokens"));
  }
  Sequence sequence;
  FQ_ASSIGN_OR_RETURN(sequence.sampling, ParseSampling(start.sampling()));
  sequence.count_tokens = sequence.sampling.repetition_penalty != 1 || sequence.sampling.presence_penalty != 0 ||
                          sequence.sampling.frequency_penalty != 0;
  sequence.top_logprobs = start.top_logprobs();
  sequence.prompt_tokens = start.prompt_tokens();
  sequence.full_logits = start.full_logits();
  FQ_RETURN_IF_ERROR(ValidateCachedTokens(request, engine_.info()));
  sequence.length = static_cast<uint32_t>(start.cached_token_ids_size());
  if (sequence.count_tokens) {
    for (const uint32_t token : start.cached_token_ids()) {
      sequence.counts.AddPrompt(token);
    }
  }
  return sequence;
}

absl::Status Session::Audit(std::vector<Admitted>& admitted, uint64_t* weight_bytes_read) {
  StepBatch batch;
  std::vector<Admitted*> audited;
  for (Admitted& one : admitted) {
    // At the top precision there is nothing to compare.
    if (one.request->audit() && plans_.at(one.request->plan_id()) != top_plan_) {
      SequenceInput input = MakeInput(one);
      input.plan = &top_plan_;
      input.sample.reset();
      input.num_logits = 1;
      batch.sequences.push_back(input);
      audited.push_back(&one);
    }
  }
  if (audited.empty()) {
    return absl::OkStatus();
  }
  return engine_.RunStep(
      batch, [] {},
      [&](const StepOutput& output) {
        for (size_t i = 0; i < audited.size(); ++i) {
          // Empty if they are not finite: then there is no result of the audit.
          audited[i]->top_logits.assign(output.sequences[i].logits.begin(), output.sequences[i].logits.end());
        }
        *weight_bytes_read = output.weight_bytes_read;
      });
}

SequenceInput Session::MakeInput(const Admitted& admitted) const {
  const Sequence& sequence = *admitted.sequence;
  SequenceInput input;
  input.tokens = admitted.tokens;
  input.start = admitted.request->position();
  input.plan = &plans_.at(admitted.request->plan_id());
  input.block_table = sequence.blocks;
  // A sequence that goes on elsewhere brings tokens of its answer behind the prompt.
  const auto length = static_cast<int64_t>(admitted.tokens.size());
  input.prompt_tokens = std::clamp<int64_t>(int64_t{sequence.prompt_tokens} - input.start, 0, length);
  if (admitted.request->sample()) {
    // The tokens after the prompt are the answer's, so the next one's index follows from the length alone.
    input.sample = SampleSpec{&sequence.sampling, &sequence.counts, sequence.length - sequence.prompt_tokens,
                              sequence.top_logprobs};
    input.num_logits = sequence.full_logits || admitted.request->audit() ? 1 : 0;
  }
  return input;
}

void Session::Finish(const Admitted& admitted, const SequenceOutput& output) {
  if (!output.status.ok()) {
    SetStatus(output.status, admitted.result);
    return;
  }
  if (output.token.has_value()) {
    admitted.sequence->last_sampled = output.token->id;
    ToProto(*output.token, admitted.result->mutable_token());
  }
  if (admitted.request->audit() && plans_.at(admitted.request->plan_id()) == top_plan_) {
    admitted.result->set_audit_kl(0);
  } else if (!admitted.top_logits.empty()) {
    admitted.result->set_audit_kl(Divergence(admitted.top_logits, output.logits));
  }
  if (admitted.sequence->full_logits && !output.logits.empty()) {
    static_assert(std::endian::native == std::endian::little);
    admitted.result->set_full_logits(output.logits.data(), output.logits.size() * sizeof(float));
  }
}

}  // namespace flexquant::executor
