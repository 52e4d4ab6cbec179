#include <optional>

#include "client/cpp/sdk/convert.h"

namespace flexquant::sdk {
namespace {

using std::chrono::nanoseconds;

template <typename T>
std::optional<T> If(bool has, T value) {
  return has ? std::optional<T>(value) : std::nullopt;
}

Sampling FromProto(const v1::SamplingParams& params) {
  Sampling sampling;
  sampling.temperature = If(params.has_temperature(), params.temperature());
  sampling.top_k = If(params.has_top_k(), params.top_k());
  sampling.top_p = If(params.has_top_p(), params.top_p());
  sampling.min_p = If(params.has_min_p(), params.min_p());
  sampling.repetition_penalty = If(params.has_repetition_penalty(), params.repetition_penalty());
  sampling.presence_penalty = If(params.has_presence_penalty(), params.presence_penalty());
  sampling.frequency_penalty = If(params.has_frequency_penalty(), params.frequency_penalty());
  sampling.seed = If(params.has_seed(), params.seed());
  return sampling;
}

Dynamic FromProto(const v1::DynamicPolicy& policy) {
  return {If(policy.has_pple_weight(), policy.pple_weight()),
          If(policy.has_entropy_high_nats(), policy.entropy_high_nats()),
          If(policy.has_hysteresis_levels(), policy.hysteresis_levels())};
}

Precision FromProto(const v1::PrecisionPolicy& policy) {
  Precision precision;
  switch (policy.policy_case()) {
    case v1::PrecisionPolicy::kFixedBits:
      precision.policy = FixedBits{policy.fixed_bits()};
      break;
    case v1::PrecisionPolicy::kNamedPlan:
      precision.policy = NamedPlan{policy.named_plan()};
      break;
    case v1::PrecisionPolicy::kLayerGroupPlan: {
      const auto& bits = policy.layer_group_plan().bits();
      precision.policy = LayerGroupPlan{{bits.begin(), bits.end()}};
      break;
    }
    case v1::PrecisionPolicy::kDynamic:
      precision.policy = FromProto(policy.dynamic());
      break;
    case v1::PrecisionPolicy::kRandom:
      precision.policy = RandomLevels{If(policy.random().has_seed(), policy.random().seed())};
      break;
    case v1::PrecisionPolicy::kPosition:
      precision.policy =
          PositionLevels{If(policy.position().has_tokens_per_level(), policy.position().tokens_per_level())};
      break;
    case v1::PrecisionPolicy::kMaxMeanKl:
      precision.policy = MaxMeanKl{policy.max_mean_kl()};
      break;
    case v1::PrecisionPolicy::kTargetMeanBits:
      precision.policy = TargetMeanBits{policy.target_mean_bits()};
      break;
    case v1::PrecisionPolicy::POLICY_NOT_SET:
      break;
  }
  precision.min_bits = If(policy.has_min_bits(), policy.min_bits());
  precision.max_bits = If(policy.has_max_bits(), policy.max_bits());
  return precision;
}

Started FromProto(const v1::GenerationStarted& message) {
  Started started;
  started.request_id = message.request_id();
  started.model = message.model();
  started.model_revision = message.model_revision();
  started.prompt_tokens = message.prompt_tokens();
  const v1::EffectiveParams& effective = message.effective();
  started.sampling = FromProto(effective.sampling());
  started.precision = FromProto(effective.precision());
  const v1::StopParams& stop = effective.stop();
  started.stop.max_tokens = If(stop.has_max_tokens(), stop.max_tokens());
  started.stop.strings.assign(stop.stop_strings().begin(), stop.stop_strings().end());
  started.stop.token_ids.assign(stop.stop_token_ids().begin(), stop.stop_token_ids().end());
  started.stop.ignore_eos = stop.ignore_eos();
  started.batch_mode = effective.batch_mode() == v1::BATCH_MODE_ISOLATED ? BatchMode::kIsolated : BatchMode::kShared;
  return started;
}

Token FromProto(const v1::TokenInfo& message) {
  Token token;
  token.id = message.id();
  token.bits = message.bits();
  token.entropy_nats = message.entropy_nats();
  token.top1_probability = message.top1_probability();
  token.margin = message.margin();
  token.logprob = message.logprob();
  for (const v1::TokenLogprob& each : message.top_logprobs()) {
    token.top.push_back({each.id(), each.logprob()});
  }
  token.level = If(message.has_level(), message.level());
  token.audit_kl = If(message.has_audit_kl(), message.audit_kl());
  return token;
}

Delta FromProto(const v1::GenerationDelta& message) {
  Delta delta;
  delta.text = message.text();
  delta.token_ids.assign(message.token_ids().begin(), message.token_ids().end());
  for (const v1::TokenInfo& token : message.tokens()) {
    delta.tokens.push_back(FromProto(token));
  }
  return delta;
}

PrecisionReport FromProto(const v1::PrecisionReport& message) {
  PrecisionReport report;
  report.policy = message.policy();
  for (const v1::PrecisionCount& bar : message.histogram()) {
    report.histogram.push_back({bar.bits(), bar.tokens()});
  }
  report.mean_bits = message.mean_bits();
  report.weight_bytes_read = message.weight_bytes_read();
  report.weight_bytes_top = message.weight_bytes_top();
  report.plan_changes = message.plan_changes();
  report.calibration = message.calibration() == v1::CALIBRATION_STATE_CALIBRATED     ? Calibration::kCalibrated
                       : message.calibration() == v1::CALIBRATION_STATE_UNCALIBRATED ? Calibration::kUncalibrated
                                                                                     : Calibration::kUnknown;
  report.max_mean_kl = If(message.has_max_mean_kl(), message.max_mean_kl());
  report.target_mean_bits = If(message.has_target_mean_bits(), message.target_mean_bits());
  report.predicted_mean_kl = If(message.has_predicted_mean_kl(), message.predicted_mean_kl());
  report.within_budget = If(message.has_within_budget(), message.within_budget());
  if (message.has_audit()) {
    const v1::AuditReport& audit = message.audit();
    report.audit = Audit{audit.tokens(), audit.mean_kl(), If(audit.has_low_kl(), audit.low_kl()),
                         If(audit.has_high_kl(), audit.high_kl())};
  }
  return report;
}

Finished FromProto(const v1::GenerationFinished& message) {
  Finished finished;
  finished.reason = message.finish_reason() == v1::FINISH_REASON_LENGTH ? FinishReason::kLength : FinishReason::kStop;
  finished.stop_cause = message.stop_cause();
  const v1::Usage& usage = message.usage();
  finished.usage = {usage.prompt_tokens(), usage.generated_tokens(), nanoseconds(usage.queue_time_ns()),
                    nanoseconds(usage.time_to_first_token_ns()), nanoseconds(usage.time_per_output_token_ns())};
  finished.precision = FromProto(message.precision());
  return finished;
}

}  // namespace

Event FromProto(const v1::GenerateStreamResponse& event) {
  if (event.has_started()) {
    return FromProto(event.started());
  }
  if (event.has_finished()) {
    return FromProto(event.finished());
  }
  return FromProto(event.delta());
}

ServerInfo FromProto(const v1::ServerInfo& message) {
  ServerInfo info;
  info.server_version = message.server_version();
  info.instance_id = message.instance_id();
  info.model = message.model();
  info.model_revision = message.model_revision();
  info.family = message.family();
  info.num_parameters = message.num_parameters();
  info.vocab_size = message.vocab_size();
  info.context_tokens = message.context_tokens();
  info.precisions.assign(message.precisions().begin(), message.precisions().end());
  info.has_reference = message.has_reference();
  info.has_chat_template = message.has_chat_template();
  info.max_batch_sequences = message.max_batch_sequences();
  info.running_requests = message.running_requests();
  info.waiting_requests = message.waiting_requests();
  for (const v1::LayerGroupInfo& group : message.layer_groups()) {
    info.layer_groups.push_back({group.name(), group.num_weights()});
  }
  for (const v1::NamedPlan& plan : message.named_plans()) {
    info.named_plans.push_back({plan.name(), {plan.bits().begin(), plan.bits().end()}, plan.mean_bits()});
  }
  for (const v1::ExecutorInfo& executor : message.executors()) {
    info.executors.push_back({executor.address(), executor.device(), executor.num_kv_blocks(),
                              executor.kv_block_tokens(), executor.ready(), executor.kv_blocks_used(),
                              executor.running_sequences()});
  }
  return info;
}

}  // namespace flexquant::sdk
