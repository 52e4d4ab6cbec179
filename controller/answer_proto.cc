#include "controller/answer_proto.h"

#include "common/nanoseconds.h"

namespace flexquant::controller {

v1::TokenInfo ToProto(const AnswerToken& token, const Tokenizer* tokenizer) {
  v1::TokenInfo proto;
  proto.set_id(token.sampled.id);
  proto.set_bits(token.bits);
  proto.set_entropy_nats(token.sampled.signals.entropy_nats);
  proto.set_top1_probability(token.sampled.signals.top1_probability);
  proto.set_margin(token.sampled.signals.margin);
  proto.set_logprob(token.sampled.logprob);
  for (const TopLogprob& top : token.sampled.top) {
    v1::TokenLogprob* out = proto.add_top_logprobs();
    out->set_id(top.id);
    out->set_logprob(top.logprob);
    if (tokenizer != nullptr) {
      out->set_piece(tokenizer->TokenBytes(top.id, /*render_special=*/true));
    }
  }
  if (token.level.has_value()) {
    proto.set_level(*token.level);
  }
  if (token.audit_kl.has_value()) {
    proto.set_audit_kl(*token.audit_kl);
  }
  if (tokenizer != nullptr) {
    proto.set_text(token.text);
    proto.set_piece(tokenizer->TokenBytes(token.sampled.id, /*render_special=*/true));
  }
  return proto;
}

v1::PrecisionReport ToProto(const PrecisionUse& use) {
  v1::PrecisionReport proto;
  for (const auto& [bits, tokens] : use.histogram) {
    v1::PrecisionCount* count = proto.add_histogram();
    count->set_bits(static_cast<uint32_t>(bits));
    count->set_tokens(tokens);
  }
  proto.set_mean_bits(use.mean_bits);
  proto.set_weight_bytes_read(use.weight_bytes_read);
  proto.set_weight_bytes_top(use.weight_bytes_top);
  proto.set_calibration(use.calibrated ? v1::CALIBRATION_STATE_CALIBRATED : v1::CALIBRATION_STATE_UNCALIBRATED);
  proto.set_plan_changes(use.plan_changes);
  proto.set_policy(use.policy);
  if (use.target.max_mean_kl.has_value()) {
    proto.set_max_mean_kl(*use.target.max_mean_kl);
  }
  if (use.target.target_mean_bits.has_value()) {
    proto.set_target_mean_bits(*use.target.target_mean_bits);
  }
  if (use.predicted_mean_kl.has_value()) {
    proto.set_predicted_mean_kl(*use.predicted_mean_kl);
  }
  if (use.target.max_mean_kl.has_value() && use.predicted_mean_kl.has_value()) {
    proto.set_within_budget(*use.predicted_mean_kl <= *use.target.max_mean_kl);
  }
  if (use.audit.has_value()) {
    v1::AuditReport* audit = proto.mutable_audit();
    audit->set_tokens(use.audit->tokens);
    audit->set_mean_kl(use.audit->mean_kl);
    if (use.audit->margin_kl.has_value()) {
      audit->set_low_kl(std::max(use.audit->mean_kl - *use.audit->margin_kl, 0.0));
      audit->set_high_kl(use.audit->mean_kl + *use.audit->margin_kl);
    }
  }
  return proto;
}

v1::GenerationFinished ToProto(const AnswerEnd& end) {
  v1::GenerationFinished proto;
  proto.set_finish_reason(end.stopped ? v1::FINISH_REASON_STOP : v1::FINISH_REASON_LENGTH);
  proto.set_stop_cause(end.stop_cause);
  v1::Usage* usage = proto.mutable_usage();
  usage->set_prompt_tokens(end.prompt_tokens);
  usage->set_generated_tokens(end.generated_tokens);
  usage->set_time_to_first_token_ns(Nanoseconds(end.time_to_first_token));
  usage->set_time_per_output_token_ns(Nanoseconds(end.time_per_output_token));
  usage->set_queue_time_ns(Nanoseconds(end.queue_time));
  *proto.mutable_precision() = ToProto(end.precision);
  return proto;
}

}  // namespace flexquant::controller
