#include "controller/generation_call.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/status_macros.h"
#include "controller/answer_proto.h"
#include "controller/request_validation.h"
#include "proto/grpc_status.h"
#include "transport/bearer_token.h"

namespace flexquant::controller {
namespace {

// Tokens that may wait for a write before no more are computed.
constexpr int kMaxWaitingTokens = 256;
// Of a request id that may be refused for its length.
constexpr size_t kMaxLoggedBytes = 128;

absl::Time DeadlineOf(const grpc::CallbackServerContext& context) {
  const auto deadline = context.deadline();
  return deadline == std::chrono::system_clock::time_point::max() ? absl::InfiniteFuture() : absl::FromChrono(deadline);
}

// The first of several values; empty = none.
absl::string_view MetadataOf(const grpc::CallbackServerContext& context, const char* key) {
  const auto found = context.client_metadata().lower_bound(key);
  if (found == context.client_metadata().end() || found->first != key) {
    return {};
  }
  return {found->second.data(), found->second.size()};
}

}  // namespace

absl::string_view AuthorizationOf(const grpc::CallbackServerContext& context) {
  // The first of several, as the port's check takes.
  return MetadataOf(context, transport::kAuthorizationKey);
}

absl::Status GenerationCall::Submit(const v1::GenerateRequest& request, const grpc::CallbackServerContext& context,
                                    std::shared_ptr<GenerationSink> self) {
  RequestFacts facts;
  facts.request_id = request.request_id().substr(0, kMaxLoggedBytes);
  facts.trace_id = TraceIdOf(MetadataOf(context, "traceparent"));
  facts.peer = context.peer();
  const absl::Status status = Accept(request, context, std::move(self), facts);
  if (!status.ok()) {
    ObserveRefusal(facts, status, environment_.metrics);
  }
  return status;
}

absl::Status GenerationCall::Accept(const v1::GenerateRequest& request, const grpc::CallbackServerContext& context,
                                    std::shared_ptr<GenerationSink> self, RequestFacts& facts) {
  const absl::Time arrival = absl::Now();
  const ModelPackage& model = environment_.model;
  Scheduler& scheduler = environment_.scheduler;
  FQ_ASSIGN_OR_RETURN(auto tenant, environment_.access.Identify(AuthorizationOf(context)));
  facts.tenant = tenant->name;
  // Before the prompt is looked at: tokenizing costs time.
  FQ_ASSIGN_OR_RETURN(TenantSlot slot, environment_.access.limits().Admit(
                                           tenant, scheduler.IsActive(tenant->name, request.request_id()), arrival));
  slot_.emplace(std::move(slot));
  FQ_ASSIGN_OR_RETURN(ValidatedRequest validated, ValidateGenerate(request, model, scheduler.MaxSequenceTokens()));
  FQ_RETURN_IF_ERROR(slot_->CheckPriority(validated.spec->priority));
  FQ_RETURN_IF_ERROR(slot_->ReserveTokens(validated.spec->prompt.size(), validated.spec->max_tokens, arrival));
  facts.request_id = validated.spec->request_id;
  facts.policy = std::string(validated.spec->policy->name());
  facts.prompt_tokens = static_cast<uint32_t>(validated.spec->prompt.size());
  validated.spec->tenant = tenant->name;
  validated.spec->arrival = arrival;
  validated.spec->deadline = DeadlineOf(context);
  token_info_ = validated.token_info;
  token_text_ = validated.token_text;
  started_.set_request_id(validated.spec->request_id);
  *started_.mutable_effective() = std::move(validated.effective);
  started_.set_prompt_tokens(static_cast<uint32_t>(validated.spec->prompt.size()));
  started_.set_kl_factor(validated.spec->policy->kl_factor());
  started_.set_model(model.name);
  started_.set_model_revision(model.revision);

  FQ_ASSIGN_OR_RETURN(const uint64_t id, scheduler.Submit(std::move(validated.spec),
                                                          Observed(std::move(self), facts, environment_.metrics)));
  bool cancelled = false;
  {
    const std::lock_guard lock(id_mutex_);
    id_ = id;
    cancelled = cancelled_;
  }
  if (cancelled) {
    scheduler.Cancel(id);
  }
  return absl::OkStatus();
}

void GenerationCall::Cancel() {
  std::optional<uint64_t> id;
  {
    const std::lock_guard lock(id_mutex_);
    cancelled_ = true;
    id = id_;
  }
  if (id.has_value()) {
    environment_.scheduler.Cancel(*id);
  }
}

v1::TokenInfo GenerationCall::InfoOf(const AnswerToken& token) const {
  return ToProto(token, token_text_ ? environment_.model.tokenizer.get() : nullptr);
}

void GenerationCall::NoteStarted() {
  if (slot_.has_value()) {
    slot_->Start();
  }
}

void GenerationCall::NoteTokens(uint64_t tokens) {
  if (slot_.has_value()) {
    slot_->CountAnswerTokens(tokens);
  }
}

void GenerationCall::NoteEnded() { slot_.reset(); }

StreamCall* StreamCall::Start(const v1::GenerateRequest& request, grpc::CallbackServerContext& context,
                              const CallEnvironment& environment) {
  const std::shared_ptr<StreamCall> call(new StreamCall(environment, context));
  call->self_ = call;
  if (const absl::Status status = call->Submit(request, context, call); !status.ok()) {
    call->OnFailed(status);
  }
  return call.get();
}

void StreamCall::OnStarted(double backend_kl) {
  NoteStarted();
  const std::lock_guard lock(mutex_);
  started_.set_backend_kl(backend_kl);
  start_pending_ = true;
  Advance();
}

void StreamCall::OnDelta(AnswerDelta delta) {
  NoteTokens(delta.tokens.size());
  const std::lock_guard lock(mutex_);
  if (!delta_.has_value()) {
    delta_.emplace();
  }
  delta_->mutable_text()->append(delta.text);
  for (const AnswerToken& token : delta.tokens) {
    delta_->add_token_ids(token.sampled.id);
    if (token_info_) {
      *delta_->add_tokens() = InfoOf(token);
    }
  }
  congested_ = delta_->token_ids_size() >= kMaxWaitingTokens;
  Advance();
}

void StreamCall::OnFinished(AnswerEnd end) {
  NoteEnded();
  const std::lock_guard lock(mutex_);
  finished_ = ToProto(end);
  Advance();
}

void StreamCall::OnFailed(absl::Status status) {
  NoteEnded();
  const std::lock_guard lock(mutex_);
  failure_ = std::move(status);
  if (writing_ && congested_) {
    // The write will not end before the client reads: only this ends the call.
    context_.TryCancel();
  }
  Advance();
}

void StreamCall::Advance() {
  if (writing_ || ended_) {
    return;
  }
  if (broken_) {
    if (finished_.has_value() || failure_.has_value()) {
      ended_ = true;
      Finish(grpc::Status(grpc::StatusCode::CANCELLED, "the client is gone"));
    }
    return;
  }
  if (start_pending_) {
    start_pending_ = false;
    *outgoing_.mutable_started() = std::move(started_);
  } else if (delta_.has_value()) {
    *outgoing_.mutable_delta() = std::move(*delta_);
    delta_.reset();
  } else if (failure_.has_value()) {
    ended_ = true;
    Finish(ToGrpcStatus(*failure_));
    return;
  } else if (finished_.has_value()) {
    *outgoing_.mutable_finished() = std::move(*finished_);
    ended_ = true;
    StartWriteAndFinish(&outgoing_, grpc::WriteOptions(), grpc::Status::OK);
    return;
  } else {
    return;
  }
  writing_ = true;
  StartWrite(&outgoing_);
}

void StreamCall::OnWriteDone(bool ok) {
  if (!ok) {
    Cancel();
  }
  bool reads_again = false;
  {
    const std::lock_guard lock(mutex_);
    writing_ = false;
    broken_ = broken_ || !ok;
    Advance();
    reads_again = congested_ && !delta_.has_value();
    congested_ = congested_ && !reads_again;
  }
  if (reads_again) {
    scheduler().Wake();
  }
}

void StreamCall::OnDone() { const std::shared_ptr<StreamCall> last = std::move(self_); }

UnaryCall* UnaryCall::Start(const v1::GenerateRequest& request, const grpc::CallbackServerContext& context,
                            const CallEnvironment& environment, v1::GenerateResponse* response) {
  const std::shared_ptr<UnaryCall> call(new UnaryCall(environment, response));
  call->self_ = call;
  if (const absl::Status status = call->Submit(request, context, call); !status.ok()) {
    call->OnFailed(status);
  }
  return call.get();
}

void UnaryCall::OnStarted(double backend_kl) {
  NoteStarted();
  started_.set_backend_kl(backend_kl);
  *response_->mutable_started() = started_;
}

void UnaryCall::OnDelta(AnswerDelta delta) {
  NoteTokens(delta.tokens.size());
  response_->mutable_text()->append(delta.text);
  for (const AnswerToken& token : delta.tokens) {
    response_->add_token_ids(token.sampled.id);
    if (token_info_) {
      *response_->add_tokens() = InfoOf(token);
    }
  }
}

void UnaryCall::OnFinished(AnswerEnd end) {
  NoteEnded();
  *response_->mutable_finished() = ToProto(end);
  Finish(grpc::Status::OK);
}

void UnaryCall::OnFailed(absl::Status status) {
  NoteEnded();
  Finish(ToGrpcStatus(status));
}

void UnaryCall::OnDone() { const std::shared_ptr<UnaryCall> last = std::move(self_); }

}  // namespace flexquant::controller
