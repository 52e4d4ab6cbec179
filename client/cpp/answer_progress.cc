#include "client/cpp/answer_progress.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "proto/grpc_status.h"

namespace flexquant::client {

AnswerProgress::AnswerProgress(const v1::GenerateRequest& request, absl::Duration resume_for)
    : request_(request),
      resume_for_(resume_for),
      wants_token_info_(request.output().token_info()),
      last_event_(absl::Now()) {
  if (resumes()) {
    request_.mutable_output()->set_token_info(true);
  }
}

bool AnswerProgress::Take(v1::GenerateStreamResponse& event) {
  last_event_ = absl::Now();
  finished_ = event.has_finished();
  if (!resumes()) {
    return true;
  }
  if (event.has_started()) {
    if (std::exchange(started_, true)) {
      return false;
    }
    const v1::GenerationStarted& started = event.started();
    request_.set_request_id(started.request_id());
    *request_.mutable_sampling() = started.effective().sampling();
    *request_.mutable_precision() = started.effective().precision();
    request_.mutable_stop()->set_max_tokens(started.effective().stop().max_tokens());
    request_.mutable_resume()->set_kl_factor(started.kl_factor());
    request_.mutable_resume()->set_backend_kl(started.backend_kl());
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
  return true;
}

absl::Status AnswerProgress::EndOf(const absl::Status& call, const std::string& server) const {
  if (finished_ || !call.ok()) {
    return finished_ ? absl::OkStatus() : call;
  }
  return absl::InternalError(absl::StrCat("server ", server, " ended the answer without its last message"));
}

bool AnswerProgress::GoesOnAfter(const absl::Status& status, absl::Time deadline) const {
  const bool executor_lost = absl::IsAborted(status) && ErrorReason(status) == "EXECUTOR_LOST";
  return resumes() && started_ && (absl::IsUnavailable(status) || executor_lost) &&
         absl::Now() + kResumePause <= std::min(deadline, last_event_ + resume_for_);
}

}  // namespace flexquant::client
