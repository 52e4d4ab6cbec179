#include "controller/executor_client.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "controller/executor_text.h"
#include "controller/step_proto.h"
#include "controller/step_stream.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "proto/executor_limits.h"
#include "spdlog/spdlog.h"
#include "transport/keepalive.h"

namespace flexquant::controller {
namespace {

constexpr uint32_t kMaxPlans = 4096;
constexpr int kMaxMessageBytes = 64 << 20;
constexpr size_t kMaxDescriptionBytes = 256;

std::shared_ptr<grpc::Channel> MakeChannel(const ExecutorTarget& target,
                                           const std::shared_ptr<grpc::ChannelCredentials>& credentials) {
  grpc::ChannelArguments args;
  if (target.credentials != nullptr) {
    target.credentials->AddArguments(args);
  }
  args.SetMaxReceiveMessageSize(kMaxMessageBytes);
  args.SetMaxSendMessageSize(kMaxMessageBytes);
  // A step of a long prefill may take tens of seconds without a byte on the wire.
  transport::AddKeepalive(args);
  args.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  args.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 100);
  args.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2'000);
  // Steps are not idempotent, and a pool shared with other channels would hide this one's failures.
  args.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  args.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel(target.address, credentials, args);
}

}  // namespace

ExecutorClient::ExecutorClient(const ExecutorTarget& target, ExpectedModel expected, std::string controller_id,
                               std::function<void()> notify)
    : target_(target),
      expected_(std::move(expected)),
      controller_id_(std::move(controller_id)),
      notify_(std::move(notify)),
      plan_ids_(kMaxPlans) {}

ExecutorClient::~ExecutorClient() { Disconnect(); }

void ExecutorClient::PrepareChannel() {
  if (target_.channel != nullptr) {
    if (stub_ == nullptr) {
      stub_ = executor::v1::ExecutorService::NewStub(target_.channel);
    }
    return;
  }
  std::shared_ptr<grpc::ChannelCredentials> credentials = used_credentials_;
  if (target_.credentials != nullptr) {
    credentials = target_.credentials->Current();
  } else if (credentials == nullptr) {
    credentials = grpc::InsecureChannelCredentials();
  }
  if (stub_ == nullptr || credentials != used_credentials_) {
    stub_ = executor::v1::ExecutorService::NewStub(MakeChannel(target_, credentials));
    used_credentials_ = std::move(credentials);
  }
}

absl::Status ExecutorClient::Connect(absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  PrepareChannel();
  FQ_RETURN_IF_ERROR(Describe(deadline));
  plan_ids_ = PlanIds(kMaxPlans);
  last_step_id_ = 0;
  stream_ = std::make_unique<StepStream>(*stub_, notify_);
  {
    const std::lock_guard lock(interrupt_mutex_);
    if (interrupted_) {
      stream_->Cancel();
    }
    cancel_call_ = [stream = stream_.get()] { stream->Cancel(); };
  }
  executor::v1::ExecuteRequest open;
  open.mutable_open()->set_expected_instance_id(description_.instance_id);
  open.mutable_open()->set_controller_id(controller_id_);
  stream_->Send(std::move(open));
  absl::StatusOr<std::string> opened = stream_->WaitOpened(deadline);
  {
    const std::lock_guard lock(interrupt_mutex_);
    cancel_call_ = nullptr;
  }
  if (opened.ok() && *opened != description_.instance_id) {
    opened = absl::UnavailableError(
        absl::StrCat("executor ", target_.address, " restarted while it was being connected to"));
  }
  if (!opened.ok()) {
    Disconnect();
    return {opened.status().code(), absl::StrCat("executor ", target_.address, ": ", opened.status().message())};
  }
  return absl::OkStatus();
}

absl::Status ExecutorClient::Describe(absl::Time deadline) {
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(deadline));
  {
    const std::lock_guard lock(interrupt_mutex_);
    if (interrupted_) {
      return absl::CancelledError("interrupted");
    }
    cancel_call_ = [&context] { context.TryCancel(); };
  }
  executor::v1::DescribeResponse response;
  const grpc::Status status = stub_->Describe(&context, executor::v1::DescribeRequest(), &response);
  {
    const std::lock_guard lock(interrupt_mutex_);
    cancel_call_ = nullptr;
  }
  if (!status.ok()) {
    const absl::Status error = FromExecutor(status);
    return {error.code(), absl::StrCat("executor ", target_.address, ": ", error.message())};
  }
  FQ_RETURN_IF_ERROR(CheckDescription(response));
  description_ = {.instance_id = response.instance_id(),
                  .version = response.version(),
                  .device = response.device(),
                  .num_kv_blocks = response.num_kv_blocks(),
                  .kv_block_tokens = response.kv_block_tokens(),
                  .max_sequences = std::min(response.max_sequences(), kMaxPlans),
                  .max_step_tokens = response.max_step_tokens(),
                  .audits = response.audits(),
                  .settings = {response.coarse_prompts(), response.kv_cache_bits() == 8 ? 8 : 16}};
  if (expected_.backend_loss.has_value() && !expected_.backend_loss->Knows(description_.settings)) {
    spdlog::warn(
        "executor {} has coarser prompts, or keys and values, than the calibration knows the loss of: budgets of KL do "
        "not count it; calibrate the package again with `flexquant calibrate`",
        target_.address);
  }
  return absl::OkStatus();
}

absl::Status ExecutorClient::CheckDescription(const executor::v1::DescribeResponse& response) const {
  const std::string who = absl::StrCat("executor ", target_.address);
  for (const std::string* text :
       {&response.instance_id(), &response.version(), &response.device(), &response.model_revision()}) {
    if (text->size() > kMaxDescriptionBytes) {
      return absl::FailedPreconditionError(absl::StrCat(who, " describes itself with a text of ", text->size(),
                                                        " bytes; at most ", kMaxDescriptionBytes, " are allowed"));
    }
  }
  if (response.model_revision() != expected_.revision) {
    return absl::FailedPreconditionError(absl::StrCat(who, " serves model revision '", response.model_revision(),
                                                      "', the controller '", expected_.revision,
                                                      "'; start both with the same model folder"));
  }
  if (response.num_layer_groups() != static_cast<uint32_t>(expected_.num_layer_groups)) {
    return absl::FailedPreconditionError(
        absl::StrCat(who, " has ", response.num_layer_groups(), " layer groups, the controller's model ",
                     expected_.num_layer_groups, "; start both with the same model folder"));
  }
  std::vector<int> precisions(kPrecisions.begin(), kPrecisions.end());
  if (expected_.has_reference) {
    precisions.push_back(kReferencePrecision);
  }
  for (const int bits : precisions) {
    if (std::find(response.precisions().begin(), response.precisions().end(), static_cast<uint32_t>(bits)) ==
        response.precisions().end()) {
      return absl::FailedPreconditionError(
          absl::StrCat(who, " does not serve ", bits, " bits; start both with the same model folder and version"));
    }
  }
  constexpr uint32_t kMaxKvBlockTokens = 1U << 16U;
  if (response.num_kv_blocks() == 0 || response.num_kv_blocks() > kMaxKvBlocks || response.kv_block_tokens() == 0 ||
      response.kv_block_tokens() > kMaxKvBlockTokens || response.max_sequences() == 0 ||
      response.max_step_tokens() == 0 || response.instance_id().empty()) {
    return absl::FailedPreconditionError(absl::StrCat(
        who, " describes itself with limits that cannot be right: ", response.num_kv_blocks(), " KV blocks of ",
        response.kv_block_tokens(), " tokens, ", response.max_sequences(), " sequences and ",
        response.max_step_tokens(), " tokens a step, instance '", response.instance_id(), "'"));
  }
  return absl::OkStatus();
}

void ExecutorClient::Interrupt() {
  const std::lock_guard lock(interrupt_mutex_);
  interrupted_ = true;
  if (cancel_call_) {
    cancel_call_();
  }
}

void ExecutorClient::Disconnect() {
  if (stream_ != nullptr) {
    stream_->Close();
    stream_.reset();
  }
}

absl::Status ExecutorClient::StreamStatus() const {
  return stream_ == nullptr ? absl::UnavailableError("not connected") : stream_->status();
}

bool ExecutorClient::draining() const { return stream_ != nullptr && stream_->draining(); }

uint64_t ExecutorClient::SendStep(const std::vector<SequenceStep>& sequences) {
  executor::v1::ExecuteRequest plans;
  executor::v1::ExecuteRequest step;
  step.mutable_step()->set_step_id(++last_step_id_);
  plan_ids_.BeginStep();
  for (const SequenceStep& sequence : sequences) {
    const PlanIds::Lookup plan = plan_ids_.Get(sequence.plan);
    if (plan.added) {
      auto* added = plans.mutable_plans()->add_plans();
      added->set_plan_id(plan.id);
      added->set_bits(sequence.plan.bits.data(), sequence.plan.bits.size());
    }
    ToProto(sequence, plan.id, step.mutable_step()->add_sequences());
  }
  if (plans.has_plans()) {
    stream_->Send(std::move(plans));
  }
  stream_->Send(std::move(step));
  return last_step_id_;
}

void ExecutorClient::SendRelease(const std::vector<uint64_t>& sequence_ids) {
  executor::v1::ExecuteRequest release;
  release.mutable_release()->mutable_sequence_ids()->Add(sequence_ids.begin(), sequence_ids.end());
  stream_->Send(std::move(release));
}

std::vector<StepResult> ExecutorClient::TakeResults() {
  return stream_ == nullptr ? std::vector<StepResult>() : stream_->TakeResults();
}

}  // namespace flexquant::controller
