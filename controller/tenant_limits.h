#ifndef FLEXQUANT_CONTROLLER_TENANT_LIMITS_H_
#define FLEXQUANT_CONTROLLER_TENANT_LIMITS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "controller/tenant.h"

namespace flexquant::controller {

struct TenantUse;

// A request's place within its tenant's limits, from its arrival until this is destroyed. Move-only; not thread-safe.
// Times never go back.
class TenantSlot {
 public:
  TenantSlot(TenantSlot&&) = default;
  TenantSlot& operator=(TenantSlot&&) = delete;
  ~TenantSlot();

  // Errors of these two are RESOURCE_EXHAUSTED as for TenantLimits.
  absl::Status CheckPriority(int priority) const;
  // Once the prompt is known: takes its tokens and the most the answer may have. What the answer did not use is given
  // back at the end.
  absl::Status ReserveTokens(uint64_t prompt_tokens, uint64_t max_answer_tokens, absl::Time now);
  // The request leaves the queue.
  void Start();
  void CountAnswerTokens(uint64_t count) { answer_tokens_ += count; }

 private:
  friend class TenantLimits;
  TenantSlot(std::shared_ptr<const Tenant> tenant, std::shared_ptr<TenantUse> use)
      : tenant_(std::move(tenant)), use_(std::move(use)) {}

  std::shared_ptr<const Tenant> tenant_;
  std::shared_ptr<TenantUse> use_;  // null = moved away
  bool started_ = false;
  uint64_t prompt_tokens_ = 0;
  uint64_t reserved_tokens_ = 0;
  uint64_t answer_tokens_ = 0;
};

// Keeps each tenant within its quota. What a tenant uses is known by its name: a changed quota applies from the next
// request on. Thread-safe. Errors are RESOURCE_EXHAUSTED with google.rpc.QuotaFailure (subject "tenant:NAME"), and with
// RetryInfo where waiting helps.
class TenantLimits {
 public:
  // A request that generates has arrived. One that takes the place of another one, which `supersedes` says, may be one
  // too many until that has ended: else a client at its limit could not try again.
  absl::StatusOr<TenantSlot> Admit(std::shared_ptr<const Tenant> tenant, bool supersedes, absl::Time now);
  // One that only tokenizes has.
  absl::Status CountRequest(const Tenant& tenant, absl::Time now);

 private:
  std::shared_ptr<TenantUse> Use(const std::string& name);

  std::mutex mutex_;
  std::map<std::string, std::shared_ptr<TenantUse>> uses_;
};

}  // namespace flexquant::controller

#endif  // FLEXQUANT_CONTROLLER_TENANT_LIMITS_H_
