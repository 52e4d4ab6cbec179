#include "controller/tenant_limits.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "proto/grpc_status.h"
#include "tests/controller/status_test_util.h"

namespace flexquant::controller {
namespace {

using ::testing::HasSubstr;

const absl::Time kStart = absl::FromUnixSeconds(1'800'000'000);

std::shared_ptr<const Tenant> Blue(const TenantQuota& quota) {
  return std::make_shared<const Tenant>(Tenant{"blue", quota});
}

absl::Duration RetryDelay(const absl::Status& status) {
  const auto delay = DetailOf<google::rpc::RetryInfo>(status).retry_delay();
  return absl::Seconds(delay.seconds()) + absl::Nanoseconds(delay.nanos());
}

void ExpectLimit(const absl::Status& status, const std::string& limit) {
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_EQ(ReasonOf(status), "TENANT_LIMIT");
  const auto failure = DetailOf<google::rpc::QuotaFailure>(status);
  ASSERT_EQ(failure.violations_size(), 1);
  EXPECT_EQ(failure.violations(0).subject(), "tenant:blue");
  EXPECT_THAT(failure.violations(0).description(), HasSubstr(limit));
  EXPECT_THAT(std::string(status.message()), HasSubstr(limit));
}

TEST(TenantLimitsTest, NoLimitsNoRefusal) {
  TenantLimits limits;
  const auto tenant = Blue({});
  std::vector<TenantSlot> slots;
  for (int i = 0; i < 1000; ++i) {
    auto slot = limits.Admit(tenant, false, kStart);
    ASSERT_TRUE(slot.ok()) << slot.status();
    EXPECT_TRUE(slot->ReserveTokens(1'000'000, 1'000'000, kStart).ok());
    slots.push_back(*std::move(slot));
  }
}

TEST(TenantLimitsTest, ConcurrentRequests) {
  TenantLimits limits;
  const auto tenant = Blue({.max_concurrent_requests = 2});
  std::optional<TenantSlot> first(*limits.Admit(tenant, false, kStart));
  const auto second = limits.Admit(tenant, false, kStart);
  ASSERT_TRUE(second.ok());
  const absl::Status third = limits.Admit(tenant, false, kStart).status();
  ExpectLimit(third, "max_concurrent_requests");
  EXPECT_GT(RetryDelay(third), absl::ZeroDuration());
  // Others do not notice.
  EXPECT_TRUE(limits.Admit(std::make_shared<const Tenant>(Tenant{"red", tenant->quota}), false, kStart).ok());
  first->Start();
  EXPECT_FALSE(limits.Admit(tenant, false, kStart).ok());
  first.reset();
  EXPECT_TRUE(limits.Admit(tenant, false, kStart).ok());
}

TEST(TenantLimitsTest, QueuedRequestsAreThoseNotStarted) {
  TenantLimits limits;
  const auto tenant = Blue({.max_queued_requests = 1});
  auto first = limits.Admit(tenant, false, kStart);
  ASSERT_TRUE(first.ok());
  ExpectLimit(limits.Admit(tenant, false, kStart).status(), "max_queued_requests");
  first->Start();
  first->Start();
  { EXPECT_TRUE(limits.Admit(tenant, false, kStart).ok()); }
  // One that never started leaves the queue as well.
  EXPECT_TRUE(limits.Admit(tenant, false, kStart).ok());
}

TEST(TenantLimitsTest, OneThatTakesAnothersPlaceMayBeOneTooMany) {
  TenantLimits limits;
  const auto tenant = Blue({.max_concurrent_requests = 1, .max_queued_requests = 1});
  const auto first = limits.Admit(tenant, false, kStart);
  ASSERT_TRUE(first.ok());
  EXPECT_FALSE(limits.Admit(tenant, false, kStart).ok());
  const auto again = limits.Admit(tenant, true, kStart);
  EXPECT_TRUE(again.ok());
  ExpectLimit(limits.Admit(tenant, true, kStart).status(), "max_concurrent_requests");
}

TEST(TenantLimitsTest, TokensOfARequest) {
  TenantLimits limits;
  auto slot = limits.Admit(Blue({.max_tokens_per_request = 100}), false, kStart);
  ASSERT_TRUE(slot.ok());
  const absl::Status status = slot->ReserveTokens(60, 41, kStart);
  ExpectLimit(status, "max_tokens_per_request");
  // Waiting does not help.
  EXPECT_FALSE(HasRetryDelay(status));
  EXPECT_TRUE(slot->ReserveTokens(60, 40, kStart).ok());
}

TEST(TenantLimitsTest, Priority) {
  TenantLimits limits;
  auto slot = limits.Admit(Blue({.priority_max = 3}), false, kStart);
  ASSERT_TRUE(slot.ok());
  const absl::Status status = slot->CheckPriority(4);
  ExpectLimit(status, "priority_max");
  EXPECT_FALSE(HasRetryDelay(status));
  EXPECT_TRUE(slot->CheckPriority(3).ok());
  auto free = limits.Admit(Blue({}), false, kStart);
  EXPECT_TRUE(free->CheckPriority(100).ok());
}

TEST(TenantLimitsTest, RequestsAMinute) {
  TenantLimits limits;
  const auto tenant = Blue({.requests_per_minute = 6});
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(limits.Admit(tenant, false, kStart).ok());
    EXPECT_TRUE(limits.CountRequest(*tenant, kStart).ok());
  }
  const absl::Status refused = limits.Admit(tenant, false, kStart).status();
  ExpectLimit(refused, "requests_per_minute");
  EXPECT_EQ(RetryDelay(refused), absl::Seconds(10));
  ExpectLimit(limits.CountRequest(*tenant, kStart + absl::Seconds(9)), "requests_per_minute");
  EXPECT_TRUE(limits.CountRequest(*tenant, kStart + absl::Seconds(10)).ok());
  EXPECT_FALSE(limits.CountRequest(*tenant, kStart + absl::Seconds(10)).ok());
  // No more than one minute's worth is ever saved up.
  int passed = 0;
  while (limits.CountRequest(*tenant, kStart + absl::Hours(1)).ok()) {
    ++passed;
  }
  EXPECT_EQ(passed, 6);
}

TEST(TenantLimitsTest, TokensAMinuteAreThoseReallyUsed) {
  TenantLimits limits;
  const auto tenant = Blue({.tokens_per_minute = 600});
  {
    auto slot = limits.Admit(tenant, false, kStart);
    ASSERT_TRUE(slot->ReserveTokens(100, 400, kStart).ok());
    slot->Start();
    slot->CountAnswerTokens(30);
    slot->CountAnswerTokens(20);
    auto other = limits.Admit(tenant, false, kStart);
    const absl::Status status = other->ReserveTokens(100, 10, kStart);
    ExpectLimit(status, "tokens_per_minute");
    EXPECT_EQ(RetryDelay(status), absl::Seconds(1));
  }
  // 150 of 600 are gone.
  auto slot = limits.Admit(tenant, false, kStart);
  EXPECT_FALSE(slot->ReserveTokens(451, 0, kStart).ok());
  EXPECT_TRUE(slot->ReserveTokens(450, 0, kStart).ok());
}

TEST(TenantLimitsTest, ARequestThatNeverStartedUsedNothing) {
  TenantLimits limits;
  const auto tenant = Blue({.tokens_per_minute = 600});
  {
    auto slot = limits.Admit(tenant, false, kStart);
    EXPECT_TRUE(slot->ReserveTokens(300, 300, kStart).ok());
  }
  auto slot = limits.Admit(tenant, false, kStart);
  EXPECT_TRUE(slot->ReserveTokens(600, 0, kStart).ok());
  // More than a whole minute's can never be had.
  auto other = limits.Admit(tenant, false, kStart);
  const absl::Status status = other->ReserveTokens(601, 0, kStart);
  ExpectLimit(status, "tokens_per_minute");
  EXPECT_FALSE(HasRetryDelay(status));
}

TEST(TenantLimitsTest, AChangedQuotaAppliesAtOnce) {
  TenantLimits limits;
  const auto slot = limits.Admit(Blue({.max_concurrent_requests = 1}), false, kStart);
  EXPECT_TRUE(limits.Admit(Blue({.max_concurrent_requests = 2}), false, kStart).ok());
  EXPECT_FALSE(limits.Admit(Blue({.max_concurrent_requests = 1}), false, kStart).ok());
}

TEST(TenantLimitsTest, PlacesAreNotLostBetweenThreads) {
  TenantLimits limits;
  const auto tenant = Blue({.max_concurrent_requests = 3, .tokens_per_minute = 1'000'000});
  std::vector<std::thread> threads;
  for (int thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&] {
      for (int i = 0; i < 1000; ++i) {
        auto slot = limits.Admit(tenant, false, kStart);
        if (slot.ok() && slot->ReserveTokens(10, 10, kStart).ok() && i % 2 == 0) {
          slot->Start();
        }
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  std::vector<TenantSlot> slots;
  for (int i = 0; i < 3; ++i) {
    auto slot = limits.Admit(tenant, false, kStart);
    ASSERT_TRUE(slot.ok()) << slot.status();
    slots.push_back(*std::move(slot));
  }
  EXPECT_FALSE(limits.Admit(tenant, false, kStart).ok());
}

}  // namespace
}  // namespace flexquant::controller
