// Executors are trusted as little as any peer.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <limits>
#include <string>

#include "controller/executor_text.h"
#include "tests/controller/service_fixture.h"

namespace flexquant::controller {
namespace {

using ::testing::HasSubstr;
using LyingExecutorTest = ServiceTest;

constexpr uint32_t kMaxKvBlocks = 1U << 24U;  // as executor.proto says

uint64_t ResidentBytes() {
  uint64_t total = 0;
  uint64_t resident = 0;
  std::ifstream("/proc/self/statm") >> total >> resident;
  EXPECT_GT(resident, 0U);
  return resident * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

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

TEST_F(LyingExecutorTest, MoreBlocksThanAnExecutorMayHaveAreRefused) {
  testing::FakeExecutorOptions options;
  options.num_kv_blocks = kMaxKvBlocks + 1;
  AddExecutor(Alphabet(5), options);
  StartController(1, /*wait_ready=*/false);
  const absl::Status ready = scheduler_->WaitReady(absl::Milliseconds(200));
  EXPECT_THAT(std::string(ready.message()), HasSubstr("16777217 KV blocks"));
}

TEST_F(LyingExecutorTest, BlocksThatAreOnlyClaimedTakeNoMemory) {
  testing::FakeExecutorOptions options;
  options.num_kv_blocks = kMaxKvBlocks;
  AddExecutor(Alphabet(5), options);
  const uint64_t before = ResidentBytes();
  StartController();
  EXPECT_EQ(Stream(Request("hi")).text, "abcde");
  // What a block takes has more than 40 bytes.
  EXPECT_LT(ResidentBytes(), before + kMaxKvBlocks * uint64_t{4});
}

TEST_F(LyingExecutorTest, ALongErrorIsShortened) {
  AddExecutor([](const std::vector<uint32_t>& /*prompt*/, uint32_t /*index*/) {
    return testing::ScriptedToken{0, 0.0F, absl::InternalError("first\nsecond" + std::string(100'000, 'x'))};
  });
  StartController();
  const StreamOutcome outcome = Stream(Request("hi"));
  EXPECT_EQ(outcome.status.code(), absl::StatusCode::kInternal) << outcome.status;
  EXPECT_THAT(std::string(outcome.status.message()), HasSubstr("executor fake-0: first secondxxx"));
  EXPECT_LT(outcome.status.message().size(), kMaxExecutorTextBytes + 100);
}

TEST(ExecutorTextTest, OfAStreamsEndToo) {
  const grpc::Status ended(grpc::StatusCode::UNAVAILABLE, "line\r\n" + std::string(kMaxExecutorTextBytes, '\x7F'), "?");
  const absl::Status status = FromExecutor(ended);
  EXPECT_EQ(status, absl::UnavailableError("line  " + std::string(kMaxExecutorTextBytes - 6, ' ') + "..."));
  EXPECT_EQ(ExecutorText("short"), "short");
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
