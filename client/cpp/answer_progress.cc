#include "client/cpp/answer_progress.h"

#include <utility>

#include "proto/grpc_status.h"

namespace flexquant::client {

AnswerProgress::AnswerProgress(const v1::GenerateRequest& request)
    : request_(request), wants_token_info_(request.output().token_info()) {
  request_.mutable_output()->set_token_info(true);
}

void AnswerProgress::Take(v1::GenerateStreamResponse event,
                          absl::FunctionRef<void(const v1::GenerateStreamResponse&)> on_event) {
  if (event.has_started()) {
    if (std::exchange(started_, true)) {
      return;
    }
    const v1::GenerationStarted& started = event.started();
    request_.set_request_id(started.request_id());
    *request_.mutable_sampling() = started.effective().sampling();
    *request_.mutable_precision() = started.effective().precision();
    request_.mutable_stop()->set_max_tokens(started.effective().stop().max_tokens());
    request_.mutable_resume()->set_kl_factor(started.kl_factor());
  } else if (event.has_delta()) {
    for (const v1::TokenInfo& token : event.delta().tokens()) {
      v1::ResumedToken* resumed = request_.mutable_resume()->add_tokens();
      resumed->set_id(token.id());
      resumed->set_entropy_nats(token.entropy_nats());
      resumed->set_top1_probability(token.top1_probability());
      resumed->set_margin(token.margin());
    }
    if (!wants_token_info_) {
      event.mutable_delta()->clear_tokens();
    }
  }
  on_event(event);
}

bool AnswerProgress::CanGoOnAfter(const absl::Status& status) const {
  const bool executor_lost = absl::IsAborted(status) && ErrorReason(status) == "EXECUTOR_LOST";
  return started_ && (absl::IsUnavailable(status) || executor_lost);
}

}  // namespace flexquant::client
