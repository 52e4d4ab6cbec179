#include "executor/service.h"

#include <chrono>
#include <deque>
#include <optional>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/precision.h"
#include "executor/session.h"
#include "proto/grpc_status.h"
#include "spdlog/spdlog.h"

namespace flexquant::executor {
namespace {

// Read ahead of the step that runs: lookahead 1 needs plans, step and release twice.
constexpr size_t kMaxQueuedMessages = 16;
constexpr size_t kMaxQueuedBytes = 64U << 20U;
constexpr size_t kMaxControllerIdBytes = 128;

absl::Status DrainingError() { return absl::UnavailableError("the executor is shutting down; use another one"); }

// Ends a stream at once.
class RefusedStream : public grpc::ServerBidiReactor<v1::ExecuteRequest, v1::ExecuteResponse> {
 public:
  explicit RefusedStream(const absl::Status& status) { Finish(ToGrpcStatus(status)); }
  void OnDone() override { delete this; }
};

}  // namespace

class ExecutorService::Stream : public grpc::ServerBidiReactor<v1::ExecuteRequest, v1::ExecuteResponse> {
 public:
  Stream(ExecutorService& service, std::string peer)
      : service_(service), peer_(std::move(peer)), session_(service.engine_) {
    StartRead(&incoming_);
    worker_ = std::thread([this] { Work(); });
  }

  // Looks whether the executor drains.
  void Wake() {
    const std::lock_guard lock(mutex_);
    changed_.notify_all();
  }

  void OnReadDone(bool ok) override {
    const std::lock_guard lock(mutex_);
    reading_ = false;
    if (ok) {
      queued_bytes_ += incoming_.ByteSizeLong();
      queue_.push_back({std::move(incoming_), absl::Now(), false});
      ReadOn();
    } else {
      half_closed_ = true;
    }
    changed_.notify_all();
  }

  void OnWriteDone(bool ok) override {
    const std::lock_guard lock(mutex_);
    writing_ = false;
    cancelled_ = cancelled_ || !ok;
    changed_.notify_all();
  }

  void OnCancel() override {
    const std::lock_guard lock(mutex_);
    cancelled_ = true;
    changed_.notify_all();
  }

  void OnDone() override {
    service_.OnStreamDone(this, std::move(worker_));
    delete this;
  }

 private:
  struct Message {
    v1::ExecuteRequest request;
    absl::Time received;
    bool draining = false;  // no request, but the peer has to be told
  };

  // Needs mutex_.
  void ReadOn() {
    if (!reading_ && !half_closed_ && queue_.size() < kMaxQueuedMessages && queued_bytes_ < kMaxQueuedBytes) {
      reading_ = true;
      StartRead(&incoming_);
    }
  }

  void Work() {
    absl::Status status;
    while (true) {
      absl::StatusOr<std::optional<Message>> message = NextMessage();
      if (!message.ok() || !message->has_value()) {
        status = message.status();
        break;
      }
      v1::ExecuteResponse response;
      if ((*message)->draining) {
        response.mutable_draining();
      } else {
        const v1::ExecuteRequest& request = (*message)->request;
        status =
            request.has_open() && !opened_ ? service_.Claim(this, request.open().controller_id()) : absl::OkStatus();
        if (status.ok()) {
          status = session_.Handle(request, (*message)->received, &response);
        }
      }
      opened_ = opened_ || response.has_opened();
      if (status.ok() && response.message_case() != v1::ExecuteResponse::MESSAGE_NOT_SET) {
        status = Write(std::move(response));
      }
      if (!status.ok()) {
        break;
      }
    }
    if (status.ok()) {
      status = WaitForWrite();
    }
    const bool expected = status.ok() || absl::IsCancelled(status) || absl::IsUnavailable(status);
    spdlog::log(expected ? spdlog::level::debug : spdlog::level::warn, "stream from {} ended: {}", peer_,
                status.ToString());
    // The last use of *this by this thread: OnDone may follow at once.
    Finish(ToGrpcStatus(status));
  }

  // Nothing after half-close; an error if the stream is cancelled or the executor drains and owes it nothing. That it
  // drains comes first, once.
  absl::StatusOr<std::optional<Message>> NextMessage() {
    std::unique_lock lock(mutex_);
    const auto notice_due = [&] { return service_.engine_.draining() && opened_ && !draining_told_; };
    changed_.wait(lock, [&] { return cancelled_ || !queue_.empty() || half_closed_ || notice_due() || Idle(); });
    if (cancelled_) {
      return absl::CancelledError("the stream was cancelled");
    }
    if (notice_due()) {
      draining_told_ = true;
      return Message{{}, absl::Now(), true};
    }
    if (!queue_.empty()) {
      Message message = std::move(queue_.front());
      queue_.pop_front();
      queued_bytes_ -= message.request.ByteSizeLong();
      ReadOn();
      return message;
    }
    if (half_closed_) {
      return std::nullopt;
    }
    return DrainingError();
  }

  bool Idle() const { return service_.engine_.draining() && session_.num_sequences() == 0; }

  absl::Status Write(v1::ExecuteResponse response) {
    const absl::Status ready = WaitForWrite();
    if (!ready.ok()) {
      return ready;
    }
    outgoing_ = std::move(response);
    {
      const std::lock_guard lock(mutex_);
      writing_ = true;
    }
    StartWrite(&outgoing_);
    return absl::OkStatus();
  }

  absl::Status WaitForWrite() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return cancelled_ || !writing_; });
    return cancelled_ ? absl::CancelledError("the stream was cancelled") : absl::OkStatus();
  }

  ExecutorService& service_;
  const std::string peer_;
  Session session_;              // of the worker
  bool opened_ = false;          // of the worker
  bool draining_told_ = false;   // of the worker
  v1::ExecuteRequest incoming_;  // of the read under way
  v1::ExecuteResponse outgoing_;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Message> queue_;
  size_t queued_bytes_ = 0;
  bool reading_ = true;
  bool writing_ = false;
  bool half_closed_ = false;
  bool cancelled_ = false;
  std::thread worker_;
};

ExecutorService::ExecutorService(Engine& engine, ServiceOptions options)
    : engine_(engine), options_(std::move(options)) {}

ExecutorService::~ExecutorService() {
  WaitForStreams(absl::InfiniteDuration());
  Reap();
}

grpc::ServerUnaryReactor* ExecutorService::Describe(grpc::CallbackServerContext* context,
                                                    const v1::DescribeRequest* /*request*/,
                                                    v1::DescribeResponse* response) {
  const RunnerInfo& info = engine_.info();
  response->set_instance_id(engine_.instance_id());
  response->set_version(FLEXQUANT_VERSION);
  response->set_device(info.device);
  response->set_model_revision(options_.model_revision);
  response->set_num_layer_groups(static_cast<uint32_t>(info.num_layer_groups));
  for (const int bits : kPrecisions) {
    response->add_precisions(static_cast<uint32_t>(bits));
  }
  if (info.has_reference) {
    response->add_precisions(kReferencePrecision);
  }
  response->set_num_kv_blocks(info.kv_blocks);
  response->set_kv_block_tokens(info.kv_block_tokens);
  response->set_max_sequences(info.max_sequences);
  response->set_max_step_tokens(info.max_step_tokens);
  response->set_steps_done(engine_.steps_done());
  response->set_max_streams(options_.max_streams);
  response->set_audits(info.audits);
  response->set_coarse_prompts(info.settings.coarse_prompts);
  response->set_kv_cache_bits(static_cast<uint32_t>(info.settings.kv_cache_bits));
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

grpc::ServerBidiReactor<v1::ExecuteRequest, v1::ExecuteResponse>* ExecutorService::Execute(
    grpc::CallbackServerContext* context) {
  Reap();
  const std::lock_guard lock(mutex_);
  if (engine_.draining()) {
    return new RefusedStream(DrainingError());
  }
  if (streams_.size() >= options_.max_streams) {
    return new RefusedStream(absl::ResourceExhaustedError(
        absl::StrCat("the executor has ", streams_.size(), " streams open, as many as it allows; close one first")));
  }
  auto* stream = new Stream(*this, context->peer());
  streams_.push_back(stream);
  return stream;
}

void ExecutorService::Drain() {
  engine_.Drain();
  const std::lock_guard lock(mutex_);
  for (Stream* stream : streams_) {
    stream->Wake();
  }
}

bool ExecutorService::WaitForStreams(absl::Duration timeout) {
  std::unique_lock lock(mutex_);
  const auto none = [&] { return streams_.empty(); };
  if (timeout == absl::InfiniteDuration()) {
    changed_.wait(lock, none);
    return true;
  }
  return changed_.wait_for(lock, absl::ToChronoNanoseconds(timeout), none);
}

absl::Status ExecutorService::Claim(Stream* stream, const std::string& controller) {
  if (controller.size() > kMaxControllerIdBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("controller_id has ", controller.size(), " bytes; at most ", kMaxControllerIdBytes));
  }
  const std::lock_guard lock(mutex_);
  for (const auto& [other, owner] : controllers_) {
    if (owner != controller) {
      return WithErrorInfo(
          absl::FailedPreconditionError("the executor serves another controller, which gives out its KV blocks; stop "
                                        "that one, or give this controller executors of its own"),
          "OTHER_CONTROLLER");
    }
  }
  controllers_[stream] = controller;
  return absl::OkStatus();
}

void ExecutorService::OnStreamDone(Stream* stream, std::thread worker) {
  const std::lock_guard lock(mutex_);
  controllers_.erase(stream);
  streams_.remove(stream);
  done_.push_back(std::move(worker));
  changed_.notify_all();
}

void ExecutorService::Reap() {
  std::vector<std::thread> done;
  {
    const std::lock_guard lock(mutex_);
    done.swap(done_);
  }
  for (std::thread& thread : done) {
    thread.join();
  }
}

}  // namespace flexquant::executor
