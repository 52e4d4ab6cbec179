#ifndef FLEXQUANT_CONTROLLER_TENANT_H_
#define FLEXQUANT_CONTROLLER_TENANT_H_

#include <cstdint>
#include <optional>
#include <string>

namespace flexquant::controller {

// How much of the server a tenant may take. Unset = without limit; otherwise at least 1.
struct TenantQuota {
  std::optional<uint64_t> max_concurrent_requests = {};  // accepted and not ended
  std::optional<uint64_t> max_queued_requests = {};      // of these, waiting for an executor
  std::optional<uint64_t> max_tokens_per_request = {};   // prompt and max_tokens
  std::optional<uint64_t> requests_per_minute = {};      // tokenizing counts too
  std::optional<uint64_t> tokens_per_minute = {};        // prompt and answer
  std::optional<int> priority_max = {};                  // of its requests; may be 0 or less

  bool operator==(const TenantQuota&) const = default;
};

// Whom requests belong to.
struct Tenant {
  std::string name;  // empty = the only one, of a server without tokens
  TenantQuota quota;
};

}  // namespace flexquant::controller

#endif  // FLEXQUANT_CONTROLLER_TENANT_H_
