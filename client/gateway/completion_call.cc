#include "client/gateway/completion_call.h"

#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "client/gateway/openai_error.h"
#include "common/status_macros.h"
#include "proto/grpc_status.h"

namespace flexquant::gateway {
namespace {

std::string NewId(const TranslatedRequest& request) {
  thread_local std::random_device device;
  return absl::StrFormat("%s-%08x%08x%08x", request.endpoint == Endpoint::kChatCompletions ? "chatcmpl" : "cmpl",
                         device(), device(), device());
}

}  // namespace

void RunningCalls::Add(ChoiceStreams* call) {
  const std::lock_guard lock(mutex_);
  calls_.insert(call);
  if (cancelled_) {
    call->Cancel();
  }
}

void RunningCalls::Remove(ChoiceStreams* call) {
  const std::lock_guard lock(mutex_);
  calls_.erase(call);
}

void RunningCalls::CancelAll() {
  const std::lock_guard lock(mutex_);
  cancelled_ = true;
  for (ChoiceStreams* call : calls_) {
    call->Cancel();
  }
}

bool RunningCalls::cancelled() const {
  const std::lock_guard lock(mutex_);
  return cancelled_;
}

CompletionCall::CompletionCall(const CallContext& context, TranslatedRequest request, const std::string& token,
                               int socket, absl::Time arrival)
    : context_(context), request_(std::move(request)), socket_(socket), arrival_(arrival) {
  head_.id = NewId(request_);
  head_.created = absl::ToUnixSeconds(absl::Now());
  facts_.id = head_.id;
  std::vector<v1::GenerateRequest> requests = request_.choices;
  for (size_t i = 0; i < requests.size(); ++i) {
    // Each answer has its name in the server's log.
    requests[i].set_request_id(requests.size() == 1 ? head_.id : absl::StrCat(head_.id, "-", i));
    choices_.emplace_back(request_, i);
  }
  context_.metrics.CompletionBegan();
  streams_.emplace(context_.client, std::move(requests), token);
  context_.running.Add(&*streams_);
  if (socket_ >= 0) {
    context_.watch.Add(socket_, [this] {
      client_gone_ = true;
      streams_->Cancel();
    });
  }
}

CompletionCall::~CompletionCall() {
  if (socket_ >= 0) {
    context_.watch.Remove(socket_);
  }
  context_.running.Remove(&*streams_);
  context_.metrics.CompletionEnded(facts_.answer_tokens, client_gone_);
}

bool CompletionCall::Next() {
  if (!streams_->Next(&choice_, &event_)) {
    return false;
  }
  received_ = absl::Now();
  if (event_.has_started()) {
    head_.model = event_.started().model();
    head_.fingerprint = absl::StrCat("fq-", event_.started().model_revision());
  } else if (event_.has_delta()) {
    facts_.answer_tokens += static_cast<uint64_t>(event_.delta().token_ids_size());
    choices_[choice_].Take(event_.delta());
  } else if (event_.has_finished()) {
    choices_[choice_].Take(event_.finished());
  }
  return true;
}

absl::Status CompletionCall::Failure() {
  absl::Status status = streams_->status();
  if (client_gone_) {
    status = absl::CancelledError("the client is gone");
  } else if (absl::IsCancelled(status) && context_.running.cancelled()) {
    status = WithErrorInfo(absl::UnavailableError("the gateway is shutting down; send the request to another one"),
                           "SHUTTING_DOWN");
  }
  facts_.status = status;
  return status;
}

absl::Status CompletionCall::Begin() { return Next() ? absl::OkStatus() : Failure(); }

std::vector<const v1::GenerationFinished*> CompletionCall::Finished() const {
  std::vector<const v1::GenerationFinished*> finished;
  for (const ChoiceJson& choice : choices_) {
    finished.push_back(&*choice.finished());
  }
  return finished;
}

absl::Status CompletionCall::Collect(std::string* body) {
  while (Next()) {
    if (event_.has_delta() && facts_.first_token == absl::InfiniteDuration()) {
      facts_.first_token = received_ - arrival_;
      context_.metrics.FirstToken(facts_.first_token);
    }
  }
  FQ_RETURN_IF_ERROR(Failure());
  AppendHead(*body, head_, ObjectName(request_, /*chunk=*/false));
  body->append(R"("choices":[)");
  for (size_t i = 0; i < choices_.size(); ++i) {
    body->append(i > 0 ? "," : "");
    choices_[i].AppendChoice(*body);
  }
  body->append("],");
  AppendUsage(*body, Finished(), request_.choices_per_prompt);
  body->append("}\n");
  return absl::OkStatus();
}

void CompletionCall::AppendEvent(std::string& out) {
  ChoiceJson& choice = choices_[choice_];
  const bool first = event_.has_started() && request_.endpoint == Endpoint::kChatCompletions;
  if (!first && !event_.has_finished() && !choice.has_news()) {
    return;
  }
  out.append("data: ");
  choice.AppendChunk(out, head_, first);
  out.append("\n\n");
}

void CompletionCall::AppendUsageChunk(std::string& out) const {
  out.append("data: ");
  AppendHead(out, head_, ObjectName(request_, /*chunk=*/true));
  out.append(R"("choices":[],)");
  AppendUsage(out, Finished(), request_.choices_per_prompt);
  out.append("}\n\n");
}

bool CompletionCall::Stream(httplib::DataSink& sink) {
  std::string out;
  bool sent = true;
  bool more = true;  // Begin took the first event
  while (more && sent) {
    AppendEvent(out);
    if (!out.empty()) {
      sent = sink.write(out.data(), out.size());
      out.clear();
      if (event_.has_delta() && facts_.first_token == absl::InfiniteDuration()) {
        const absl::Time now = absl::Now();
        facts_.first_token = now - arrival_;
        context_.metrics.FirstToken(facts_.first_token);
        context_.metrics.Forwarded(now - received_);
      }
    }
    more = sent && Next();
  }
  if (!sent) {
    client_gone_ = true;
    facts_.status = absl::CancelledError("the client is gone");
    return false;
  }
  if (const absl::Status status = Failure(); !status.ok()) {
    absl::StrAppend(&out, "data: ", ErrorOf(status).Body(), "\n");
  } else if (request_.include_usage) {
    AppendUsageChunk(out);
  }
  out.append("data: [DONE]\n\n");
  return sink.write(out.data(), out.size());
}

}  // namespace flexquant::gateway
