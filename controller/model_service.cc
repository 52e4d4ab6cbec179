#include "controller/model_service.h"

#include <algorithm>
#include <utility>

#include "proto/grpc_status.h"

namespace flexquant::controller {

ModelService::ModelService(const ModelPackage& model, const Scheduler& scheduler, std::string instance_id)
    : model_(model), scheduler_(scheduler) {
  fixed_.set_api_version("flexquant.v1");
  fixed_.set_server_version(FLEXQUANT_VERSION);
  fixed_.set_instance_id(std::move(instance_id));
  fixed_.set_model(model.name);
  fixed_.set_model_revision(model.revision);
  fixed_.set_family(model.config.family);
  fixed_.set_num_parameters(model.config.NumParameters());
  fixed_.set_vocab_size(model.tokenizer->vocab_size());
  for (const int bits : kPrecisions) {
    fixed_.add_precisions(static_cast<uint32_t>(bits));
  }
  fixed_.set_has_reference(model.policies.has_reference);
  for (int group = 0; group < model.layer_groups->count(); ++group) {
    v1::LayerGroupInfo* info = fixed_.add_layer_groups();
    info->set_name(model.layer_groups->Name(group));
    info->set_num_weights(model.layer_groups->num_weights()[static_cast<size_t>(group)]);
  }
  for (const NamedPrecisionPlan& named : model.policies.named_plans) {
    v1::NamedPlan* plan = fixed_.add_named_plans();
    plan->set_name(named.name);
    plan->mutable_bits()->Add(named.plan.bits.begin(), named.plan.bits.end());
    plan->set_mean_bits(model.layer_groups->MeanBits(named.plan));
  }
  fixed_.set_has_chat_template(model.chat_template != nullptr);
}

grpc::ServerUnaryReactor* ModelService::GetServerInfo(grpc::CallbackServerContext* context,
                                                      const v1::GetServerInfoRequest* /*request*/,
                                                      v1::GetServerInfoResponse* response) {
  v1::ServerInfo& info = *response->mutable_server_info();
  info = fixed_;
  bool reached = false;
  std::string reasons;
  uint64_t running = 0;
  for (const ExecutorState& state : scheduler_.ExecutorStates()) {
    v1::ExecutorInfo* executor = info.add_executors();
    executor->set_kv_blocks_used(static_cast<uint32_t>(state.figures->kv_blocks_used));
    executor->set_running_sequences(static_cast<uint32_t>(state.figures->running));
    running += executor->running_sequences();
    executor->set_address(state.address);
    executor->set_ready(state.ready);
    if (!state.ready) {
      reasons += (reasons.empty() ? "" : "; ") + std::string(state.last_error.message());
    }
    if (state.description.has_value()) {
      reached = true;
      executor->set_instance_id(state.description->instance_id);
      executor->set_device(state.description->device);
      executor->set_num_kv_blocks(state.description->num_kv_blocks);
      executor->set_kv_block_tokens(state.description->kv_block_tokens);
      info.set_max_batch_sequences(std::max(info.max_batch_sequences(), state.description->max_sequences));
    }
  }
  info.set_running_requests(static_cast<uint32_t>(running));
  info.set_waiting_requests(static_cast<uint32_t>(scheduler_.waiting()));
  const auto context_tokens = static_cast<uint64_t>(model_.config.max_context);
  const uint64_t kv_tokens = scheduler_.MaxSequenceTokens();
  info.set_context_tokens(static_cast<uint32_t>(kv_tokens > 0 ? std::min(kv_tokens, context_tokens) : context_tokens));
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(reached ? grpc::Status::OK
                          : ToGrpcStatus(WithRetryDelay(
                                WithErrorInfo(absl::UnavailableError("no executor has been reached yet: " + reasons),
                                              "NO_EXECUTOR"),
                                absl::Seconds(1))));
  return reactor;
}

}  // namespace flexquant::controller
