#include "tests/controller/bench/null_executor.h"

#include <algorithm>
#include <cmath>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <utility>

#include "flexquant/executor/v1/executor.grpc.pb.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"

namespace flexquant::controller {
namespace {

namespace wire = flexquant::executor::v1;

void Answer(const wire::StepRequest& step, wire::StepResult* result) {
  result->set_step_id(step.step_id());
  for (const wire::SequenceStep& part : step.sequences()) {
    wire::SequenceResult* sequence = result->add_sequences();
    sequence->set_sequence_id(part.sequence_id());
    if (part.sample()) {
      const auto entropy = static_cast<float>(1.5 + 1.5 * std::sin(0.7 * part.position()));
      wire::SampledToken* token = sequence->mutable_token();
      token->set_id(100 + part.position() % 100);
      token->set_entropy_nats(entropy);
      token->set_top1_probability(std::exp(-entropy));
      token->set_margin(5 * std::exp(-entropy));
      token->set_logprob(-entropy);
    }
  }
}

class Stream final : public grpc::ServerBidiReactor<wire::ExecuteRequest, wire::ExecuteResponse> {
 public:
  Stream(const std::string& instance_id, NullExecutor::StepTime step_time)
      : instance_id_(instance_id), step_time_(std::move(step_time)) {
    if (step_time_) {
      clock_ = std::thread([this] { SendWhenDone(); });
    }
    StartRead(&incoming_);
  }

  void OnReadDone(bool ok) override {
    const std::lock_guard lock(mutex_);
    if (!ok) {
      ended_ = true;
      changed_.notify_all();
      Finish(grpc::Status::OK);
      return;
    }
    wire::ExecuteResponse response;
    if (incoming_.has_open()) {
      response.mutable_opened()->set_instance_id(instance_id_);
    } else if (incoming_.has_step()) {
      Answer(incoming_.step(), response.mutable_result());
      if (step_time_) {
        Compute(std::move(response));
        response.Clear();
      }
    }
    if (response.message_case() != wire::ExecuteResponse::MESSAGE_NOT_SET) {
      outbox_.push_back(std::move(response));
      Write();
    }
    StartRead(&incoming_);
  }
  void OnWriteDone(bool ok) override {
    const std::lock_guard lock(mutex_);
    writing_ = false;
    if (ok) {
      Write();
    }
  }
  void OnDone() override {
    if (clock_.joinable()) {
      clock_.join();
    }
    delete this;
  }

 private:
  using Clock = std::chrono::steady_clock;

  void Compute(wire::ExecuteResponse response) {
    const Clock::time_point received = Clock::now();
    const Clock::time_point begun = std::max(received, free_at_);
    const std::chrono::nanoseconds time = step_time_(incoming_.step());
    free_at_ = begun + time;
    response.mutable_result()->set_queue_ns(static_cast<uint64_t>((begun - received).count()));
    response.mutable_result()->set_compute_ns(static_cast<uint64_t>(time.count()));
    computing_.emplace_back(free_at_, std::move(response));
    changed_.notify_all();
  }
  void SendWhenDone() {
    std::unique_lock lock(mutex_);
    while (!ended_) {
      if (computing_.empty()) {
        changed_.wait(lock);
      } else if (const Clock::time_point done = computing_.front().first; Clock::now() < done) {
        changed_.wait_until(lock, done);
      } else {
        outbox_.push_back(std::move(computing_.front().second));
        computing_.pop_front();
        Write();
      }
    }
  }
  void Write() {
    if (!writing_ && !outbox_.empty()) {
      outgoing_ = std::move(outbox_.front());
      outbox_.pop_front();
      writing_ = true;
      StartWrite(&outgoing_);
    }
  }

  const std::string instance_id_;
  const NullExecutor::StepTime step_time_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::pair<Clock::time_point, wire::ExecuteResponse>> computing_;
  Clock::time_point free_at_;
  bool ended_ = false;
  std::thread clock_;
  wire::ExecuteRequest incoming_;
  wire::ExecuteResponse outgoing_;
  std::deque<wire::ExecuteResponse> outbox_;
  bool writing_ = false;
};

class NullExecutorImpl final : public NullExecutor, public wire::ExecutorService::CallbackService {
 public:
  NullExecutorImpl(std::string model_revision, int num_layer_groups, uint32_t max_sequences, StepTime step_time)
      : step_time_(std::move(step_time)),
        model_revision_(std::move(model_revision)),
        num_layer_groups_(static_cast<uint32_t>(num_layer_groups)),
        max_sequences_(max_sequences) {
    grpc::ServerBuilder builder;
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }
  ~NullExecutorImpl() override { server_->Shutdown(std::chrono::system_clock::now()); }

  std::shared_ptr<grpc::Channel> channel() override { return server_->InProcessChannel(grpc::ChannelArguments()); }

  grpc::ServerUnaryReactor* Describe(grpc::CallbackServerContext* context, const wire::DescribeRequest* /*request*/,
                                     wire::DescribeResponse* response) override {
    response->set_instance_id("null");
    response->set_device("null");
    response->set_model_revision(model_revision_);
    response->set_num_layer_groups(num_layer_groups_);
    for (const uint32_t bits : {3U, 4U, 5U, 6U, 8U, 16U}) {
      response->add_precisions(bits);
    }
    response->set_num_kv_blocks(1U << 20U);
    response->set_kv_block_tokens(16);
    response->set_max_sequences(max_sequences_);
    response->set_max_step_tokens(8192);
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }
  grpc::ServerBidiReactor<wire::ExecuteRequest, wire::ExecuteResponse>* Execute(
      grpc::CallbackServerContext* /*context*/) override {
    return new Stream("null", step_time_);
  }

 private:
  const StepTime step_time_;
  const std::string model_revision_;
  const uint32_t num_layer_groups_;
  const uint32_t max_sequences_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace

std::unique_ptr<NullExecutor> NullExecutor::Start(const std::string& model_revision, int num_layer_groups,
                                                  uint32_t max_sequences, StepTime step_time) {
  return std::make_unique<NullExecutorImpl>(model_revision, num_layer_groups, max_sequences, std::move(step_time));
}

}  // namespace flexquant::controller
