#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "client/cpp/sdk/convert.h"

namespace flexquant::sdk {
namespace {

// What std::visit calls for each alternative.
template <typename... Cases>
struct Overloaded : Cases... {
  using Cases::operator()...;
};
template <typename... Cases>
Overloaded(Cases...) -> Overloaded<Cases...>;

template <typename T, typename Message>
void SetIf(const std::optional<T>& value, Message& message, void (Message::*set)(T)) {
  if (value.has_value()) {
    (message.*set)(*value);
  }
}

void FillSampling(const Sampling& sampling, v1::SamplingParams& params) {
  SetIf(sampling.temperature, params, &v1::SamplingParams::set_temperature);
  SetIf(sampling.top_k, params, &v1::SamplingParams::set_top_k);
  SetIf(sampling.top_p, params, &v1::SamplingParams::set_top_p);
  SetIf(sampling.min_p, params, &v1::SamplingParams::set_min_p);
  SetIf(sampling.repetition_penalty, params, &v1::SamplingParams::set_repetition_penalty);
  SetIf(sampling.presence_penalty, params, &v1::SamplingParams::set_presence_penalty);
  SetIf(sampling.frequency_penalty, params, &v1::SamplingParams::set_frequency_penalty);
  SetIf(sampling.seed, params, &v1::SamplingParams::set_seed);
}

void FillDynamic(const Dynamic& dynamic, v1::DynamicPolicy& policy) {
  SetIf(dynamic.pple_weight, policy, &v1::DynamicPolicy::set_pple_weight);
  SetIf(dynamic.entropy_high_nats, policy, &v1::DynamicPolicy::set_entropy_high_nats);
  SetIf(dynamic.hysteresis_levels, policy, &v1::DynamicPolicy::set_hysteresis_levels);
}

void FillPrecision(const Precision& precision, v1::PrecisionPolicy& policy) {
  std::visit(Overloaded{
                 [](const std::monostate&) {},
                 [&](const FixedBits& fixed) { policy.set_fixed_bits(fixed.bits); },
                 [&](const NamedPlan& plan) { policy.set_named_plan(plan.name); },
                 [&](const LayerGroupPlan& plan) {
                   policy.mutable_layer_group_plan()->mutable_bits()->Add(plan.bits.begin(), plan.bits.end());
                 },
                 [&](const Dynamic& dynamic) { FillDynamic(dynamic, *policy.mutable_dynamic()); },
                 [&](const RandomLevels& levels) {
                   SetIf(levels.seed, *policy.mutable_random(), &v1::RandomPolicy::set_seed);
                 },
                 [&](const PositionLevels& levels) {
                   SetIf(levels.tokens_per_level, *policy.mutable_position(),
                         &v1::PositionPolicy::set_tokens_per_level);
                 },
                 [&](const MaxMeanKl& budget) { policy.set_max_mean_kl(budget.nats); },
                 [&](const TargetMeanBits& target) { policy.set_target_mean_bits(target.bits); },
             },
             precision.policy);
  SetIf(precision.min_bits, policy, &v1::PrecisionPolicy::set_min_bits);
  SetIf(precision.max_bits, policy, &v1::PrecisionPolicy::set_max_bits);
}

void FillPrompt(const Prompt& prompt, v1::GenerateRequest& message) {
  std::visit(Overloaded{
                 [&](const std::string& text) { message.set_text(text); },
                 [&](const std::vector<TokenId>& ids) {
                   message.mutable_token_ids()->mutable_ids()->Add(ids.begin(), ids.end());
                 },
                 [&](const Chat& chat) { FillChat(chat, *message.mutable_chat()); },
             },
             prompt);
}

}  // namespace

void FillChat(const Chat& chat, v1::ChatPrompt& message) {
  for (const ChatMessage& each : chat) {
    v1::ChatMessage* added = message.add_messages();
    added->set_role(each.role);
    added->set_content(each.content);
  }
}

v1::GenerateRequest ToProto(const GenerateRequest& request) {
  v1::GenerateRequest message;
  message.set_model(request.model);
  FillPrompt(request.prompt, message);
  FillSampling(request.sampling, *message.mutable_sampling());
  FillPrecision(request.precision, *message.mutable_precision());
  v1::StopParams& stop = *message.mutable_stop();
  SetIf(request.stop.max_tokens, stop, &v1::StopParams::set_max_tokens);
  stop.mutable_stop_strings()->Add(request.stop.strings.begin(), request.stop.strings.end());
  stop.mutable_stop_token_ids()->Add(request.stop.token_ids.begin(), request.stop.token_ids.end());
  stop.set_ignore_eos(request.stop.ignore_eos);
  message.mutable_output()->set_token_info(request.token_info);
  message.mutable_output()->set_top_logprobs(request.top_logprobs);
  message.set_request_id(request.request_id);
  if (request.batch_mode.has_value()) {
    message.set_batch_mode(*request.batch_mode == BatchMode::kIsolated ? v1::BATCH_MODE_ISOLATED
                                                                       : v1::BATCH_MODE_SHARED);
  }
  message.set_priority(request.priority);
  return message;
}

}  // namespace flexquant::sdk
