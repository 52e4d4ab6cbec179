// Executors that join and leave while the controller runs.

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/controller/service_fixture.h"
#include "tests/controller/status_test_util.h"

namespace flexquant::controller {
namespace {

using ::testing::ElementsAre;
using testing::FakeExecutor;
using ::testing::HasSubstr;

constexpr char kAnswer[] = "abcdefghijklmnopqrstuvwxyzabcd";

class MembershipTest : public ServiceTest {
 protected:
  // Lists these of the executors, by their order of AddExecutor.
  void List(const std::vector<size_t>& listed, const absl::Status& lookup = absl::OkStatus()) {
    std::vector<ExecutorTarget> targets;
    for (const size_t i : listed) {
      targets.push_back({absl::StrCat("fake-", i), executors_[i]->channel()});
    }
    scheduler_->SetExecutors(targets, lookup);
  }

  // Opens a stream on the one executor, which holds its results, and takes the executor out of the list.
  std::unique_ptr<LiveStream> OpenAndUnlist(FakeExecutor& executor) {
    executor.HoldResults();
    auto live = OpenStarted(Request("hi", 30));
    EXPECT_TRUE(executor.WaitForSteps(1));
    List({});
    while (scheduler_->ExecutorStates().at(0).ready) {
      std::this_thread::yield();
    }
    return live;
  }

  // Addresses of the executors that the controller keeps once it keeps only `count`.
  std::vector<std::string> Known(size_t count, const std::vector<size_t>& listed) {
    std::vector<std::string> addresses;
    const absl::Time patience = absl::Now() + absl::Seconds(30);
    do {
      List(listed);
      addresses.clear();
      for (const ExecutorState& state : scheduler_->ExecutorStates()) {
        addresses.push_back(state.address);
      }
      std::this_thread::yield();
    } while (addresses.size() != count && absl::Now() < patience);
    return addresses;
  }
};

TEST_F(MembershipTest, AnExecutorThatJoinsTakesRequests) {
  StartController(1, /*wait_ready=*/false);
  const StreamOutcome early = Stream(Request("hi", 3));
  EXPECT_EQ(early.status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReasonOf(early.status), "NO_EXECUTOR");
  AddExecutor(Alphabet(1000));
  List({0});
  ASSERT_TRUE(scheduler_->WaitReady(absl::Seconds(30)).ok());
  EXPECT_EQ(Stream(Request("hi", 3)).text, "abc");
  ExpectNoViolations();
}

TEST_F(MembershipTest, ARefusalSaysWhatIsWrongWithTheList) {
  StartController(1, /*wait_ready=*/false);
  List({}, absl::NotFoundError("the name 'many' has no address"));
  const StreamOutcome refused = Stream(Request("hi", 3));
  EXPECT_EQ(ReasonOf(refused.status), "NO_EXECUTOR");
  EXPECT_THAT(std::string(refused.status.message()), HasSubstr("the name 'many' has no address"));
}

TEST_F(MembershipTest, AnExecutorThatLeavesHandsItsSequencesOver) {
  FakeExecutor& leaving = AddExecutor(Alphabet(1000));
  StartController();
  leaving.HoldResults();
  const auto live = OpenStarted(Request("hi", 30));
  leaving.AllowResults(3);
  ASSERT_TRUE(leaving.WaitForSteps(4));
  FakeExecutor& staying = AddExecutor(Alphabet(1000));
  List({1});
  EXPECT_TRUE(leaving.WaitUntilIdle());
  leaving.ResumeResults();
  const StreamOutcome outcome = Rest(*live);
  EXPECT_TRUE(outcome.status.ok()) << outcome.status;
  EXPECT_EQ(outcome.text, kAnswer);
  EXPECT_FALSE(staying.steps().empty());
  EXPECT_THAT(Known(1, {1}), ElementsAre("fake-1"));
  // What it did still counts.
  const SchedulerFigures figures = scheduler_->Figures();
  EXPECT_GE(figures.departed->steps, 3U);
  EXPECT_EQ(figures.departed->moved, 1U);
  EXPECT_EQ(figures.departed->losses, 0U);
  ExpectNoViolations();
}

TEST_F(MembershipTest, TheLastOneFinishesWhatItHas) {
  FakeExecutor& executor = AddExecutor(Alphabet(1000));
  StartController();
  const auto live = OpenAndUnlist(executor);
  EXPECT_EQ(ReasonOf(Stream(Request("late", 3)).status), "NO_EXECUTOR");
  executor.ResumeResults();
  EXPECT_EQ(Rest(*live).text, kAnswer);
  EXPECT_TRUE(Known(0, {}).empty());
  ExpectNoViolations();
}

TEST_F(MembershipTest, OneThatIsListedAgainGoesOnWithItsStream) {
  FakeExecutor& executor = AddExecutor(Alphabet(1000));
  StartController();
  const auto live = OpenAndUnlist(executor);
  List({0});
  ASSERT_TRUE(scheduler_->WaitReady(absl::Seconds(30)).ok());
  executor.ResumeResults();
  EXPECT_EQ(Rest(*live).text, kAnswer);
  EXPECT_EQ(Stream(Request("hi", 3)).text, "abc");
  EXPECT_EQ(executor.streams_opened(), 1);
}

TEST_F(MembershipTest, OneThatHasLeftMayComeBack) {
  FakeExecutor& executor = AddExecutor(Alphabet(1000));
  StartController();
  EXPECT_TRUE(Known(0, {}).empty());
  List({0});
  ASSERT_TRUE(scheduler_->WaitReady(absl::Seconds(30)).ok());
  EXPECT_EQ(Stream(Request("hi", 3)).text, "abc");
  EXPECT_EQ(executor.streams_opened(), 2);
}

TEST_F(MembershipTest, OneThatNeverAnsweredIsForgotten) {
  targets_.push_back({"127.0.0.1:1", nullptr});
  StartController(1, /*wait_ready=*/false);
  EXPECT_TRUE(Known(0, {}).empty());
}

}  // namespace
}  // namespace flexquant::controller
