// The JSON of a tokens file, a token that a caller shows, and requests within its tenant's limits.

#include <memory>
#include <string>

#include "absl/time/time.h"
#include "common/check.h"
#include "controller/tenant_limits.h"
#include "controller/token_table.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/fuzz_target.h"

namespace flexquant::fuzz {
namespace {

void UseQuota(const std::shared_ptr<const controller::Tenant>& tenant, FuzzInput& bytes, absl::Time now) {
  controller::TenantLimits limits;
  while (!bytes.empty()) {
    now += absl::Milliseconds(bytes.Number(100));
    auto slot = limits.Admit(tenant, bytes.Flag(), now);
    if (!slot.ok()) {
      FQ_CHECK(absl::IsResourceExhausted(slot.status()));
      continue;
    }
    const absl::Status priority = slot->CheckPriority(static_cast<int>(bytes.Small(0, 200)) - 100);
    const absl::Status reserved = slot->ReserveTokens(bytes.Number(100), bytes.Number(100), now);
    FQ_CHECK((priority.ok() || absl::IsResourceExhausted(priority)) &&
             (reserved.ok() || absl::IsResourceExhausted(reserved)));
    slot->Start();
    slot->CountAnswerTokens(bytes.Byte());
  }
}

FQ_FUZZ_TARGET(token_table, input) {
  const absl::Time now = absl::FromUnixSeconds(1'800'000'000);
  FuzzInput bytes(input);
  const std::string json = bytes.Section();
  const std::string token = bytes.Section();
  const auto table = controller::TokenTable::Parse(json, "tokens.json");
  if (!table.ok()) {
    FQ_CHECK(absl::IsInvalidArgument(table.status()));
    return;
  }
  const auto tenant = table->Find(token, now);
  if (tenant.ok()) {
    UseQuota(*tenant, bytes, now);
  } else {
    FQ_CHECK(absl::IsUnauthenticated(tenant.status()));
  }
}

}  // namespace
}  // namespace flexquant::fuzz
