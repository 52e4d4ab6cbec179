#include "controller/tenant_limits.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "proto/grpc_status.h"

namespace flexquant::controller {
namespace {

// When one of the tenant's other requests will have ended is not known.
constexpr absl::Duration kBusyRetryDelay = absl::Seconds(1);

absl::Status LimitError(const Tenant& tenant, absl::string_view limit, absl::string_view description) {
  return WithErrorInfo(QuotaViolation(absl::StrCat("tenant:", tenant.name),
                                      absl::StrCat("tenant '", tenant.name, "': ", description, " (", limit, ")")),
                       "TENANT_LIMIT");
}

// Fills up evenly, to one minute's worth at most.
class TokenBucket {
 public:
  // How long until `count` can be taken, which it then is if that is now. InfiniteDuration = never.
  absl::Duration Take(uint64_t count, uint64_t per_minute, absl::Time now) {
    const auto capacity = static_cast<double>(per_minute);
    const auto wanted = static_cast<double>(count);
    if (now > filled_) {
      // InfinitePast, the start, fills it.
      level_ = std::min(capacity, level_ + absl::ToDoubleMinutes(now - filled_) * capacity);
      filled_ = now;
    }
    level_ = std::min(level_, capacity);
    // A millionth is what rounding may have lost.
    if (wanted <= level_ + 1e-6) {
      level_ -= wanted;
      return absl::ZeroDuration();
    }
    return wanted > capacity ? absl::InfiniteDuration()
                             : std::max(absl::Milliseconds(1), absl::Minutes((wanted - level_) / capacity));
  }
  void GiveBack(uint64_t count) { level_ += static_cast<double>(count); }

 private:
  double level_ = 0;
  absl::Time filled_ = absl::InfinitePast();
};

}  // namespace

// What a tenant uses now.
struct TenantUse {
  std::mutex mutex;
  uint64_t requests = 0;  // accepted and not ended
  uint64_t queued = 0;    // of these, not started
  TokenBucket request_bucket;
  TokenBucket token_bucket;
};

namespace {

// With use.mutex held.
absl::Status TakeRequest(const Tenant& tenant, TenantUse& use, absl::Time now) {
  if (!tenant.quota.requests_per_minute.has_value()) {
    return absl::OkStatus();
  }
  const uint64_t limit = *tenant.quota.requests_per_minute;
  const absl::Duration wait = use.request_bucket.Take(1, limit, now);
  if (wait == absl::ZeroDuration()) {
    return absl::OkStatus();
  }
  return WithRetryDelay(
      LimitError(tenant, "requests_per_minute", absl::StrCat("more than ", limit, " requests a minute; send fewer")),
      wait);
}

}  // namespace

TenantSlot::~TenantSlot() {
  if (use_ == nullptr) {
    return;
  }
  const std::lock_guard lock(use_->mutex);
  --use_->requests;
  use_->queued -= started_ ? 0 : 1;
  const uint64_t used = started_ ? prompt_tokens_ + answer_tokens_ : 0;
  use_->token_bucket.GiveBack(reserved_tokens_ - std::min(reserved_tokens_, used));
}

absl::Status TenantSlot::CheckPriority(int priority) const {
  const std::optional<int> most = tenant_->quota.priority_max;
  if (!most.has_value() || priority <= *most) {
    return absl::OkStatus();
  }
  return LimitError(*tenant_, "priority_max",
                    absl::StrCat("priority ", priority, ", allowed are ", *most, " and less; lower it"));
}

absl::Status TenantSlot::ReserveTokens(uint64_t prompt_tokens, uint64_t max_answer_tokens, absl::Time now) {
  const uint64_t tokens = prompt_tokens + max_answer_tokens;
  const TenantQuota& quota = tenant_->quota;
  const std::string asked =
      absl::StrCat("prompt and max_tokens are ", prompt_tokens, " + ", max_answer_tokens, " tokens");
  if (quota.max_tokens_per_request.has_value() && tokens > *quota.max_tokens_per_request) {
    return LimitError(*tenant_, "max_tokens_per_request",
                      absl::StrCat(asked, ", allowed are ", *quota.max_tokens_per_request,
                                   "; shorten the prompt or lower stop.max_tokens"));
  }
  if (!quota.tokens_per_minute.has_value()) {
    return absl::OkStatus();
  }
  const std::lock_guard lock(use_->mutex);
  const absl::Duration wait = use_->token_bucket.Take(tokens, *quota.tokens_per_minute, now);
  if (wait == absl::InfiniteDuration()) {
    return LimitError(*tenant_, "tokens_per_minute",
                      absl::StrCat(asked, ", more than a minute's ", *quota.tokens_per_minute,
                                   "; shorten the prompt or lower stop.max_tokens"));
  }
  if (wait > absl::ZeroDuration()) {
    return WithRetryDelay(LimitError(*tenant_, "tokens_per_minute",
                                     absl::StrCat(asked, ", and of ", *quota.tokens_per_minute,
                                                  " a minute too few are left; send fewer or smaller requests")),
                          wait);
  }
  prompt_tokens_ = prompt_tokens;
  reserved_tokens_ = tokens;
  return absl::OkStatus();
}

void TenantSlot::Start() {
  const std::lock_guard lock(use_->mutex);
  use_->queued -= started_ ? 0 : 1;
  started_ = true;
}

absl::StatusOr<TenantSlot> TenantLimits::Admit(std::shared_ptr<const Tenant> tenant, bool supersedes, absl::Time now) {
  const TenantQuota& quota = tenant->quota;
  const uint64_t spare = supersedes ? 1 : 0;
  const auto full = [&](uint64_t used, const std::optional<uint64_t>& limit) {
    return limit.has_value() && used >= *limit + spare;
  };
  std::shared_ptr<TenantUse> use = Use(tenant->name);
  const std::lock_guard lock(use->mutex);
  if (full(use->requests, quota.max_concurrent_requests)) {
    return WithRetryDelay(LimitError(*tenant, "max_concurrent_requests",
                                     absl::StrCat(use->requests,
                                                  " requests are under way, as many as are allowed; wait "
                                                  "for one to end")),
                          kBusyRetryDelay);
  }
  if (full(use->queued, quota.max_queued_requests)) {
    return WithRetryDelay(
        LimitError(*tenant, "max_queued_requests",
                   absl::StrCat(use->queued, " requests wait to be started, as many as may; wait for one to start")),
        kBusyRetryDelay);
  }
  FQ_RETURN_IF_ERROR(TakeRequest(*tenant, *use, now));
  ++use->requests;
  ++use->queued;
  return TenantSlot(std::move(tenant), use);
}

absl::Status TenantLimits::CountRequest(const Tenant& tenant, absl::Time now) {
  const std::shared_ptr<TenantUse> use = Use(tenant.name);
  const std::lock_guard lock(use->mutex);
  return TakeRequest(tenant, *use, now);
}

std::shared_ptr<TenantUse> TenantLimits::Use(const std::string& name) {
  const std::lock_guard lock(mutex_);
  std::shared_ptr<TenantUse>& use = uses_[name];
  if (use == nullptr) {
    use = std::make_shared<TenantUse>();
  }
  return use;
}

}  // namespace flexquant::controller
