#include "client/cpp/answer_loop.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <mutex>
#include <utility>

#include "absl/time/clock.h"
#include "client/cpp/answer_progress.h"
#include "client/cpp/call_scope.h"
#include "grpcpp/alarm.h"

namespace flexquant::client {
namespace {

// So long an event waits for a pause at most when more and more come: long enough that a loop with too much to do
// passes several tokens of an answer on together, which costs less, and short for whoever waits.
constexpr absl::Duration kMaxTimeWithoutPause = absl::Milliseconds(1);

}  // namespace

// One operation of it is in the queue at a time, so that its address is the tag; none while the listener holds it.
class AnswerLoop::Answer final : public RunningAnswer {
 public:
  Answer(AnswerLoop& loop, const v1::GenerateRequest& request, const std::string& token, AnswerListener* listener,
         size_t index)
      : loop_(loop),
        listener_(listener),
        index_(index),
        authorization_(loop.client_.AuthorizationOf(token)),
        progress_(request, loop.client_.resume_for_) {}

  void Begin(std::shared_ptr<Answer> self) {
    self_ = std::move(self);
    const std::lock_guard lock(mutex_);
    Open();
  }

  void Cancel() override {
    const std::lock_guard lock(mutex_);
    cancelled_ = true;
    if (state_ == State::kEnded) {
      return;
    }
    if (state_ == State::kPausing) {
      alarm_.Cancel();
      return;
    }
    call_->scope.context()->TryCancel();
    if (state_ == State::kHeld) {
      Read();
    }
  }

  void ReadOn() override {
    const std::lock_guard lock(mutex_);
    if (state_ == State::kHeld) {
      Read();
    } else {
      read_on_ = true;  // it may be about to be held
    }
  }

  AnswerListener* listener() const { return listener_; }
  absl::Time last_event() const { return progress_.last_event(); }

  // The operation in the queue is done. True if the listener got an event.
  bool Advance(bool ok) {
    if (state_ == State::kReading && ok) {
      return TakeEvent();
    }
    const std::lock_guard lock(mutex_);
    switch (state_) {
      case State::kOpening:
        if (ok) {
          Read();
          break;
        }
        [[fallthrough]];
      case State::kReading:
        state_ = State::kClosing;
        call_->reader->Finish(&call_->status, this);
        break;
      case State::kClosing:
        Close();
        break;
      case State::kPausing:
        if (cancelled_) {
          status_ = absl::CancelledError("cancelled while the answer was to be taken up again");
          state_ = State::kEnded;
        } else {
          Open();
        }
        break;
      case State::kHeld:
      case State::kEnded:
        break;
    }
    return false;
  }

  bool ended() const { return state_ == State::kEnded; }
  // Once it has ended; may destroy it.
  void TellEnd() {
    const std::shared_ptr<Answer> self = std::move(self_);
    listener_->OnEnd(index_, status_);
  }

 private:
  enum class State { kOpening, kReading, kHeld, kClosing, kPausing, kEnded };
  struct Call {
    explicit Call(const std::string& authorization) : scope(CallOptions(), authorization) {}

    CallScope scope;
    std::unique_ptr<grpc::ClientAsyncReader<v1::GenerateStreamResponse>> reader;
    v1::GenerateStreamResponse event;
    grpc::Status status;
  };

  // With mutex_ held, as all that follow but TakeEvent.
  void Open() {
    state_ = State::kOpening;
    call_ = std::make_unique<Call>(authorization_);
    if (cancelled_) {
      call_->scope.context()->TryCancel();
    }
    v1::GenerateStreamRequest request;
    *request.mutable_request() = progress_.request();
    call_->reader =
        loop_.client_.inference_->PrepareAsyncGenerateStream(call_->scope.context(), request, &loop_.queue_);
    call_->reader->StartCall(this);
  }

  void Read() {
    state_ = State::kReading;
    call_->reader->Read(&call_->event, this);
  }

  bool TakeEvent() {
    {
      const std::lock_guard lock(mutex_);
      read_on_ = false;
    }
    const bool told = progress_.Take(call_->event);
    const bool more = !told || listener_->OnEvent(index_, call_->event);
    const std::lock_guard lock(mutex_);
    if (more || cancelled_ || read_on_) {
      Read();
    } else {
      state_ = State::kHeld;
    }
    return told;
  }

  void Close() {
    status_ = progress_.EndOf(loop_.client_.ToStatus(call_->status), loop_.client_.name_);
    if (cancelled_ || !progress_.GoesOnAfter(status_)) {
      state_ = State::kEnded;
      return;
    }
    state_ = State::kPausing;
    alarm_.Set(&loop_.queue_, absl::ToChronoTime(absl::Now() + kResumePause), this);
  }

  AnswerLoop& loop_;
  AnswerListener* const listener_;
  const size_t index_;
  const std::string authorization_;
  AnswerProgress progress_;
  std::shared_ptr<Answer> self_;  // until the end
  absl::Status status_;
  grpc::Alarm alarm_;

  std::mutex mutex_;  // of what follows
  // Changed by the loop's thread, and by others from kHeld; so that thread may read it without the lock.
  std::atomic<State> state_{State::kOpening};
  bool read_on_ = false;
  bool cancelled_ = false;
  std::unique_ptr<Call> call_;
};

AnswerLoop::AnswerLoop(const Client& client) : client_(client) {
  thread_ = std::thread([this] { Run(); });
}

AnswerLoop::~AnswerLoop() {
  queue_.Shutdown();
  thread_.join();
}

std::shared_ptr<RunningAnswer> AnswerLoop::Start(const v1::GenerateRequest& request, const std::string& token,
                                                 AnswerListener* listener, size_t index) {
  auto answer = std::make_shared<Answer>(*this, request, token, listener, index);
  answer->Begin(answer);
  return answer;
}

void AnswerLoop::Run() {
  std::vector<AnswerListener*> waiting;  // for a pause
  absl::Time since;                      // the first of them waits
  const auto pause = [&] {
    for (AnswerListener* listener : waiting) {
      listener->OnPause();
    }
    waiting.clear();
  };
  while (true) {
    void* tag = nullptr;
    bool ok = false;
    const auto deadline = waiting.empty() ? std::chrono::system_clock::time_point::max()
                                          : std::chrono::system_clock::time_point();  // long past
    const auto next = queue_.AsyncNext(&tag, &ok, deadline);
    if (next == grpc::CompletionQueue::SHUTDOWN) {
      return;
    }
    if (next == grpc::CompletionQueue::TIMEOUT) {
      pause();
      continue;
    }
    auto& answer = *static_cast<Answer*>(tag);
    if (answer.Advance(ok)) {
      since = waiting.empty() ? answer.last_event() : since;
      if (std::find(waiting.begin(), waiting.end(), answer.listener()) == waiting.end()) {
        waiting.push_back(answer.listener());
      }
      if (answer.last_event() - since > kMaxTimeWithoutPause) {
        pause();
      }
    }
    if (answer.ended()) {
      // The listener may be gone after this.
      const auto place = std::find(waiting.begin(), waiting.end(), answer.listener());
      if (place != waiting.end()) {
        waiting.erase(place);
        answer.listener()->OnPause();
      }
      answer.TellEnd();
    }
  }
}

}  // namespace flexquant::client
