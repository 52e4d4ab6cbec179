#include "client/cpp/answer_stream.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/cpp/call_scope.h"

namespace flexquant::client {
namespace {

// Between two attempts to take a stream up again; Ctrl-C has to wait for it.
constexpr absl::Duration kPauseBeforeResuming = absl::Milliseconds(200);

}  // namespace

struct AnswerStream::Call {
  Call(const CallOptions& options, const std::string& authorization) : scope(options, authorization) {}

  CallScope scope;
  std::unique_ptr<grpc::ClientReader<v1::GenerateStreamResponse>> reader;
  bool finished = false;  // its last message has come
};

AnswerStream::AnswerStream(const Client& client, const v1::GenerateRequest& request, CallOptions options)
    : client_(client),
      options_(std::move(options)),
      deadline_(absl::Now() + options_.timeout),
      last_event_(absl::Now()) {
  if (client_.resume_for_ > absl::ZeroDuration()) {
    progress_.emplace(request);
  } else {
    request_ = request;
  }
}

AnswerStream::~AnswerStream() {
  if (call_ != nullptr) {
    call_->scope.context()->TryCancel();
    Close().IgnoreError();
  }
}

void AnswerStream::Open() {
  CallOptions options = options_;
  options.timeout = deadline_ - absl::Now();
  call_ = std::make_unique<Call>(options, client_.AuthorizationOf(options.token));
  v1::GenerateStreamRequest request;
  *request.mutable_request() = progress_.has_value() ? progress_->request() : request_;
  call_->reader = client_.inference_->GenerateStream(call_->scope.context(), request);
}

absl::Status AnswerStream::Close() {
  v1::GenerateStreamResponse rest;
  while (call_->reader->Read(&rest)) {
  }
  const grpc::Status status = call_->reader->Finish();
  const bool finished = call_->finished;
  call_.reset();
  if (!status.ok()) {
    return client_.ToStatus(status);
  }
  if (!finished) {
    return absl::InternalError(absl::StrCat("server ", client_.name_, " ended the answer without its last message"));
  }
  return absl::OkStatus();
}

bool AnswerStream::GoesOnAfter(const absl::Status& status) const {
  const bool cancelled = options_.cancel != nullptr && options_.cancel->cancelled();
  return !status.ok() && !cancelled && progress_.has_value() && progress_->CanGoOnAfter(status) &&
         absl::Now() + kPauseBeforeResuming <= std::min(deadline_, last_event_ + client_.resume_for_);
}

bool AnswerStream::TakeEvent(v1::GenerateStreamResponse& event) {
  if (!progress_.has_value()) {
    return true;
  }
  bool is_seen = false;
  progress_->Take(std::move(event), [&](const v1::GenerateStreamResponse& seen) {
    event = seen;
    is_seen = true;
  });
  return is_seen;
}

bool AnswerStream::Next(v1::GenerateStreamResponse* event) {
  while (!ended_) {
    if (call_ == nullptr) {
      Open();
    }
    if (call_->reader->Read(event)) {
      last_event_ = absl::Now();
      call_->finished = event->has_finished();
      if (TakeEvent(*event)) {
        return true;
      }
      continue;
    }
    status_ = Close();
    ended_ = !GoesOnAfter(status_);
    if (!ended_) {
      absl::SleepFor(kPauseBeforeResuming);
    }
  }
  return false;
}

}  // namespace flexquant::client
