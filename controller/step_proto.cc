#include "controller/step_proto.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "controller/executor_text.h"

namespace flexquant::controller {
namespace {

constexpr int kMaxTopLogprobs = 20;
// In nats; far beyond what finite logits of a model can give, and small enough to be counted in billionths.
constexpr double kMaxAuditKl = 1e6;

absl::Status SequenceStatus(const executor::v1::SequenceResult& result) {
  if (result.code() == 0) {
    const executor::v1::SampledToken& token = result.token();
    const bool numbers = std::isfinite(token.entropy_nats()) && std::isfinite(token.top1_probability()) &&
                         std::isfinite(token.margin()) && std::isfinite(token.logprob());
    return numbers ? absl::OkStatus() : absl::InternalError("the signals of a token are not finite");
  }
  const bool known = result.code() > 0 && result.code() <= 16;
  return {known ? static_cast<absl::StatusCode>(result.code()) : absl::StatusCode::kUnknown,
          ExecutorText(result.message())};
}

SampledToken FromProto(const executor::v1::SampledToken& proto) {
  SampledToken token;
  token.id = proto.id();
  token.signals = {proto.entropy_nats(), proto.top1_probability(), proto.margin()};
  token.logprob = proto.logprob();
  const int top = std::min({proto.top_ids_size(), proto.top_logprobs_size(), kMaxTopLogprobs});
  for (int i = 0; i < top; ++i) {
    token.top.push_back({proto.top_ids(i), proto.top_logprobs(i)});
  }
  return token;
}

void ToProto(const SamplingValues& values, executor::v1::Sampling* proto) {
  proto->set_temperature(values.temperature);
  proto->set_top_k(values.top_k);
  proto->set_top_p(values.top_p);
  proto->set_min_p(values.min_p);
  proto->set_repetition_penalty(values.repetition_penalty);
  proto->set_presence_penalty(values.presence_penalty);
  proto->set_frequency_penalty(values.frequency_penalty);
  proto->set_seed(values.seed);
}

}  // namespace

void ToProto(const SequenceStep& step, uint32_t plan_id, executor::v1::SequenceStep* proto) {
  proto->set_sequence_id(step.sequence_id);
  proto->set_plan_id(plan_id);
  if (step.start.has_value()) {
    ToProto(step.start->sampling, proto->mutable_start()->mutable_sampling());
    proto->mutable_start()->set_top_logprobs(step.start->top_logprobs);
    proto->mutable_start()->set_prompt_tokens(step.start->prompt_tokens);
    const std::vector<uint32_t>& cached = step.start->cached_token_ids;
    proto->mutable_start()->mutable_cached_token_ids()->Add(cached.begin(), cached.end());
  }
  proto->set_position(step.position);
  proto->mutable_token_ids()->Add(step.token_ids.begin(), step.token_ids.end());
  proto->set_sample(step.sample);
  proto->set_audit(step.audit);
  proto->mutable_new_kv_blocks()->Add(step.new_kv_blocks.begin(), step.new_kv_blocks.end());
}

StepResult FromProto(const executor::v1::StepResult& proto) {
  StepResult result;
  result.step_id = proto.step_id();
  result.queue_time = absl::Nanoseconds(proto.queue_ns());
  result.compute_time = absl::Nanoseconds(proto.compute_ns());
  result.weight_bytes_read = proto.weight_bytes_read();
  for (const auto& sequence : proto.sequences()) {
    SequenceResult& out = result.sequences.emplace_back();
    out.sequence_id = sequence.sequence_id();
    out.status = SequenceStatus(sequence);
    if (sequence.has_token()) {
      out.token = FromProto(sequence.token());
    }
    if (sequence.has_audit_kl() && sequence.audit_kl() >= 0 && sequence.audit_kl() <= kMaxAuditKl) {
      out.audit_kl = sequence.audit_kl();
    }
  }
  return result;
}

}  // namespace flexquant::controller
