#include "client/cpp/answer_stream.h"

#include <string>
#include <utility>

#include "absl/time/clock.h"
#include "client/cpp/call_scope.h"

namespace flexquant::client {

struct AnswerStream::Call {
  Call(const CallOptions& options, const std::string& authorization) : scope(options, authorization) {}

  CallScope scope;
  std::unique_ptr<grpc::ClientReader<v1::GenerateStreamResponse>> reader;
};

AnswerStream::AnswerStream(const Client& client, const v1::GenerateRequest& request, CallOptions options)
    : client_(client),
      options_(std::move(options)),
      deadline_(absl::Now() + options_.timeout),
      progress_(request, client.resume_for_) {}

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
  *request.mutable_request() = progress_.request();
  call_->reader = client_.inference_->GenerateStream(call_->scope.context(), request);
}

absl::Status AnswerStream::Close() {
  v1::GenerateStreamResponse rest;
  while (call_->reader->Read(&rest)) {
  }
  const grpc::Status status = call_->reader->Finish();
  call_.reset();
  return progress_.EndOf(client_.ToStatus(status), client_.name_);
}

bool AnswerStream::Next(v1::GenerateStreamResponse* event) {
  while (!ended_) {
    if (call_ == nullptr) {
      Open();
    }
    if (call_->reader->Read(event)) {
      if (progress_.Take(*event)) {
        return true;
      }
      continue;
    }
    status_ = Close();
    const bool cancelled = options_.cancel != nullptr && options_.cancel->cancelled();
    ended_ = cancelled || !progress_.GoesOnAfter(status_, deadline_);
    if (!ended_) {
      absl::SleepFor(kResumePause);  // Ctrl-C has to wait for it
    }
  }
  return false;
}

}  // namespace flexquant::client
