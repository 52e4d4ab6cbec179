#include "client/cpp/call_scope.h"

#include "transport/bearer_token.h"

namespace flexquant::client {

void CancelToken::Cancel() {
  const std::lock_guard lock(mutex_);
  cancelled_ = true;
  for (grpc::ClientContext* context : contexts_) {
    context->TryCancel();
  }
}

bool CancelToken::cancelled() const {
  const std::lock_guard lock(mutex_);
  return cancelled_;
}

CallScope::CallScope(const CallOptions& options, const std::string& authorization) : cancel_(options.cancel) {
  if (!authorization.empty()) {
    context_.AddMetadata(transport::kAuthorizationKey, authorization);
  }
  if (options.timeout != absl::InfiniteDuration()) {
    context_.set_deadline(absl::ToChronoTime(absl::Now() + options.timeout));
  }
  if (cancel_ != nullptr) {
    const std::lock_guard lock(cancel_->mutex_);
    cancel_->contexts_.insert(&context_);
    if (cancel_->cancelled_) {
      context_.TryCancel();
    }
  }
}

CallScope::~CallScope() {
  if (cancel_ != nullptr) {
    const std::lock_guard lock(cancel_->mutex_);
    cancel_->contexts_.erase(&context_);
  }
}

}  // namespace flexquant::client
