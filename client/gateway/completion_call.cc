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

// What may wait for a client; then the server waits, as it does for a stream that nobody reads.
constexpr size_t kMaxUnsentBytes = size_t{64} << 10U;

std::string NewId(const TranslatedRequest& request) {
  thread_local std::random_device device;
  return absl::StrFormat("%s-%08x%08x%08x", request.endpoint == Endpoint::kChatCompletions ? "chatcmpl" : "cmpl",
                         device(), device(), device());
}

// A chunk of HTTP's chunked coding.
void AppendHttpChunk(std::string& out, const std::string& data) {
  absl::StrAppend(&out, absl::Hex(data.size()), "\r\n", data, "\r\n");
}

}  // namespace

void RunningCalls::Add(CompletionCall* call) {
  const std::lock_guard lock(mutex_);
  calls_.insert(call);
  if (ended_) {
    call->End(CompletionCall::Cause::kShutdown);
  }
}

void RunningCalls::Remove(CompletionCall* call) {
  const std::lock_guard lock(mutex_);
  calls_.erase(call);
}

void RunningCalls::EndAll() {
  const std::lock_guard lock(mutex_);
  ended_ = true;
  for (CompletionCall* call : calls_) {
    call->End(CompletionCall::Cause::kShutdown);
  }
}

CompletionCall::CompletionCall(const CallContext& context, TranslatedRequest request, const std::string& token,
                               Connection& connection, absl::Time arrival)
    : context_(context), request_(std::move(request)), connection_(connection), arrival_(arrival) {
  head_.id = NewId(request_);
  head_.created = absl::ToUnixSeconds(absl::Now());
  facts_->id = head_.id;
  const size_t count = request_.choices.size();
  news_.assign(count, false);
  for (size_t i = 0; i < count; ++i) {
    choices_.emplace_back(request_, i);
  }
  context_.metrics.CompletionBegan();
  {
    const std::lock_guard lock(mutex_);
    for (size_t i = 0; i < count; ++i) {
      v1::GenerateRequest choice = request_.choices[i];
      // Each answer has its name in the server's log.
      choice.set_request_id(count == 1 ? head_.id : absl::StrCat(head_.id, "-", i));
      answers_.push_back(context_.loop.Start(choice, token, this, i));
    }
  }
  context_.running.Add(this);
  context_.watch.Add(connection_.socket(), [this] { End(Cause::kClientGone); });
}

CompletionCall::~CompletionCall() {
  context_.watch.Remove(connection_.socket());
  context_.running.Remove(this);
  std::unique_lock lock(mutex_);
  for (const auto& answer : answers_) {
    answer->Cancel();
  }
  changed_.wait(lock, [this] { return all_ended(); });
  context_.metrics.CompletionEnded(facts_->answer_tokens, cause_ == Cause::kClientGone);
}

void CompletionCall::End(Cause cause) {
  const std::lock_guard lock(mutex_);
  EndLocked(cause);
}

void CompletionCall::EndLocked(Cause cause) {
  if (cause_ == Cause::kNone && !all_ended()) {
    cause_ = cause;
  }
  for (const auto& answer : answers_) {
    answer->Cancel();
  }
  changed_.notify_all();
}

bool CompletionCall::OnEvent(size_t index, const v1::GenerateStreamResponse& event) {
  const std::lock_guard lock(mutex_);
  if (event.has_started()) {
    head_.model = event.started().model();
    head_.fingerprint = absl::StrCat("fq-", event.started().model_revision());
  } else if (event.has_delta()) {
    if (facts_->answer_tokens == 0) {
      first_token_received_ = absl::Now();
    }
    facts_->answer_tokens += static_cast<uint64_t>(event.delta().token_ids_size());
    choices_[index].Take(event.delta());
  } else if (event.has_finished()) {
    choices_[index].Take(event.finished());
  }
  news_[index] = true;
  if (!begun_) {
    begun_ = true;
    changed_.notify_all();
  }
  return unsent_.size() < kMaxUnsentBytes;
}

void CompletionCall::GatherChunks() {
  std::string events;
  for (size_t i = 0; i < choices_.size(); ++i) {
    if (news_[i] && choices_[i].has_news()) {
      events.append("data: ");
      choices_[i].AppendChunk(events, head_);
      events.append("\n\n");
    }
    news_[i] = false;
  }
  if (!events.empty()) {
    AppendHttpChunk(unsent_, events);
  }
}

void CompletionCall::NoteFirstToken() {
  if (first_token_received_ != absl::InfinitePast() && facts_->first_token == absl::InfiniteDuration()) {
    const absl::Time now = absl::Now();
    facts_->first_token = now - arrival_;
    context_.metrics.FirstToken(facts_->first_token);
    context_.metrics.Forwarded(now - first_token_received_);
  }
}

void CompletionCall::SendGathered() {
  const ssize_t sent = connection_.TryWrite(unsent_.data(), unsent_.size());
  if (sent < 0) {
    EndLocked(Cause::kClientGone);
    return;
  }
  unsent_.erase(0, static_cast<size_t>(sent));
  NoteFirstToken();
  if (!unsent_.empty()) {
    changed_.notify_all();  // the connection's thread waits for the client
  }
}

void CompletionCall::OnPause() {
  const std::lock_guard lock(mutex_);
  if (!request_.stream) {
    return;
  }
  const bool behind = !unsent_.empty();
  GatherChunks();
  if (sending_ && !behind && !unsent_.empty()) {
    SendGathered();
  }
}

void CompletionCall::OnEnd(size_t /*index*/, const absl::Status& status) {
  const std::lock_guard lock(mutex_);
  ++ended_;
  if (!status.ok() && status_.ok()) {
    status_ = status;
    // The others are of no use without it.
    for (const auto& answer : answers_) {
      answer->Cancel();
    }
  }
  changed_.notify_all();
}

absl::Status CompletionCall::Failure() const {
  switch (cause_) {
    case Cause::kClientGone:
      return absl::CancelledError("the client is gone");
    case Cause::kShutdown:
      return WithErrorInfo(absl::UnavailableError("the gateway is shutting down; send the request to another one"),
                           "SHUTTING_DOWN");
    case Cause::kNone:
      break;
  }
  return absl::IsCancelled(status_) ? EndedByServer("behind the gateway") : status_;
}

absl::Status CompletionCall::Begin() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return begun_ || all_ended(); });
  facts_->status = begun_ ? absl::OkStatus() : Failure();
  return facts_->status;
}

std::vector<const v1::GenerationFinished*> CompletionCall::Finished() const {
  std::vector<const v1::GenerationFinished*> finished;
  for (const ChoiceJson& choice : choices_) {
    finished.push_back(&*choice.finished());
  }
  return finished;
}

absl::Status CompletionCall::Collect(std::string* body) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return all_ended(); });
  facts_->status = Failure();
  FQ_RETURN_IF_ERROR(facts_->status);
  if (first_token_received_ != absl::InfinitePast()) {
    facts_->first_token = first_token_received_ - arrival_;
    context_.metrics.FirstToken(facts_->first_token);
  }
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

bool CompletionCall::SendAndWait(std::unique_lock<std::mutex>& lock) {
  // While unsent_ is not empty the loop's thread leaves the connection alone, so it may grow but not go.
  while (!unsent_.empty() && cause_ != Cause::kClientGone) {
    const std::string part = unsent_;
    lock.unlock();
    const ssize_t sent = connection_.write(part.data(), part.size());
    lock.lock();
    if (sent < 0) {
      EndLocked(Cause::kClientGone);
      return false;
    }
    unsent_.erase(0, static_cast<size_t>(sent));
    NoteFirstToken();
  }
  for (const auto& answer : answers_) {
    answer->ReadOn();
  }
  return cause_ != Cause::kClientGone;
}

bool CompletionCall::Stream(httplib::DataSink& sink) {
  std::string last;
  {
    std::unique_lock lock(mutex_);
    bool there = SendAndWait(lock);
    sending_ = true;
    while (there && !(all_ended() && unsent_.empty())) {
      changed_.wait(lock, [this] { return congested() || all_ended() || cause_ == Cause::kClientGone; });
      there = SendAndWait(lock);
    }
    facts_->status = Failure();
    if (!there) {
      changed_.wait(lock, [this] { return all_ended(); });  // soon: they are cancelled
      return false;
    }
    if (!facts_->status.ok()) {
      absl::StrAppend(&last, "data: ", ErrorOf(facts_->status).Body(), "\n");
    } else if (request_.include_usage) {
      last.append("data: ");
      AppendHead(last, head_, ObjectName(request_, /*chunk=*/true));
      last.append(R"("choices":[],)");
      AppendUsage(last, Finished(), request_.choices_per_prompt);
      last.append("}\n\n");
    }
  }
  last.append("data: [DONE]\n\n");
  return sink.write(last.data(), last.size());
}

}  // namespace flexquant::gateway
