// Executors are trusted as little as any peer.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <string>

#include "tests/controller/service_fixture.h"

namespace flexquant::controller {
namespace {

using ::testing::HasSubstr;
using LyingExecutorTest = ServiceTest;

TEST_F(LyingExecutorTest, ALongDescriptionIsRefused) {
  testing::FakeExecutorOptions options;
  options.instance_id = std::string(257, 'x');
  AddExecutor(Alphabet(5), options);
  StartController(1, /*wait_ready=*/false);
  const absl::Status ready = scheduler_->WaitReady(absl::Milliseconds(200));
  EXPECT_THAT(std::string(ready.message()), HasSubstr("257 bytes"));
}

TEST_F(LyingExecutorTest, BlocksOfTooManyTokensAreRefused) {
  testing::FakeExecutorOptions options;
  options.kv_block_tokens = std::numeric_limits<uint32_t>::max();
  AddExecutor(Alphabet(5), options);
  StartController(1, /*wait_ready=*/false);
  const absl::Status ready = scheduler_->WaitReady(absl::Milliseconds(200));
  EXPECT_THAT(std::string(ready.message()), HasSubstr("limits that cannot be right"));
}

// As one that shuts down does, but for ever.
TEST_F(LyingExecutorTest, OneThatRefusesEveryTimeEndsTheRequest) {
  AddExecutor([](const std::vector<uint32_t>& /*prompt*/, uint32_t /*index*/) {
    return testing::ScriptedToken{0, 0.0F, absl::UnavailableError("not now")};
  });
  StartController();
  const StreamOutcome outcome = Stream(Request("hi"));
  EXPECT_EQ(outcome.status.code(), absl::StatusCode::kUnavailable) << outcome.status;
  EXPECT_THAT(std::string(outcome.status.message()), HasSubstr("lost 3 executors"));
}

TEST_F(LyingExecutorTest, SignalsThatAreNoNumbersEndTheRequest) {
  AddExecutor([](const std::vector<uint32_t>& prompt, uint32_t index) {
    const bool lies = prompt.size() > 4;
    return testing::ScriptedToken{
        index < 3 ? 'a' + index : kEos, lies && index == 1 ? std::numeric_limits<float>::quiet_NaN() : 0.0F, {}};
  });
  StartController();
  const StreamOutcome outcome = Stream(Request("a long prompt"));
  EXPECT_EQ(outcome.status.code(), absl::StatusCode::kInternal) << outcome.status;
  EXPECT_THAT(std::string(outcome.status.message()), HasSubstr("not finite"));
  EXPECT_EQ(outcome.num_finished, 0);
  EXPECT_EQ(Stream(Request("hi")).text, "abc");
}

}  // namespace
}  // namespace flexquant::controller
