// What the simulated fleet does can be worked out by hand where it is simple, and nothing is lost where it is not.

#include "tools/simulate/simulation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <string>
#include <vector>

#include "tests/controller/test_model.h"
#include "tools/simulate/cost_model.h"
#include "tools/simulate/simulation_report.h"

namespace flexquant::simulate {
namespace {

using ::testing::HasSubstr;

cli::TraceRequest At(double seconds, uint32_t prompt_tokens, uint32_t answer_tokens) {
  cli::TraceRequest request;
  request.arrival = absl::Seconds(seconds);
  request.prompt_tokens = prompt_tokens;
  request.answer_tokens = answer_tokens;
  return request;
}

class SimulationTest : public ::testing::Test {
 protected:
  SimulationTest() {
    options_.round_trip = absl::Milliseconds(2);
    options_.worker.step_timeout = absl::InfiniteDuration();
    options_.policy.set_fixed_bits(4);
  }
  ExecutorSpec& AddExecutor(const CostModel& cost) {
    ExecutorSpec& executor = options_.executors.emplace_back();
    executor.cost = cost;
    return executor;
  }
  SimulationResult Run() {
    arrivals_.requests = std::max(arrivals_.requests, arrivals_.trace.size());
    auto result = Simulate(model_, options_, arrivals_);
    EXPECT_TRUE(result.ok()) << result.status();
    return result.ok() ? *std::move(result) : SimulationResult();
  }

  const controller::ModelPackage model_ = controller::TestModel();
  SimulationOptions options_;
  Arrivals arrivals_;
};

TEST_F(SimulationTest, OneRequestTakesWhatItsStepsTake) {
  AddExecutor({.fixed_ms = 10, .sequence_ms = 1, .sequence_bit_ms = 0.5, .prompt_token_ms = 2});
  arrivals_.trace = {At(0, 20, 11)};
  const SimulationResult result = Run();
  ASSERT_EQ(result.ttft_ms.size(), 1U);
  EXPECT_NEAR(result.ttft_ms[0], 10 + 2 * 20 + 2, 1e-3);
  // With lookahead 1 the wire is hidden behind the steps.
  EXPECT_NEAR(result.tpot_ms[0], 10 + 1 + 4 * 0.5, 1e-3);
  EXPECT_EQ(result.steps, 11U);
  EXPECT_EQ(result.tokens, 11U);
}

TEST_F(SimulationTest, WithoutLookaheadEveryStepWaitsForTheWire) {
  AddExecutor({.fixed_ms = 10});
  options_.worker.lookahead = 0;
  arrivals_.trace = {At(0, 5, 11)};
  EXPECT_NEAR(Run().tpot_ms.at(0), 10 + 2, 1e-3);
}

TEST_F(SimulationTest, SeveralExecutorsShareTheLoadAsTheyAreFast) {
  // Time by the token only, so that speed is throughput.
  for (const double factor : {1.0, 1.0, 4.0}) {
    AddExecutor({.fixed_ms = 0.1 * factor, .sequence_ms = factor, .prompt_token_ms = factor});
  }
  for (int i = 0; i < 400; ++i) {
    arrivals_.trace.push_back(At(0.008 * i, 8, 8));
  }
  const SimulationResult result = Run();
  ASSERT_EQ(result.executors.size(), 3U);
  EXPECT_EQ(result.ttft_ms.size(), 400U);
  const auto answers = [&](size_t executor) { return static_cast<double>(result.executors[executor].answers); };
  EXPECT_NEAR(answers(0), answers(1), 40);
  EXPECT_LT(answers(2), 0.5 * answers(0));
  EXPECT_GT(answers(2), 0);
}

TEST_F(SimulationTest, PromptsThatBeginAlikeFindEachOther) {
  for (int i = 0; i < 4; ++i) {
    AddExecutor({.fixed_ms = 1, .sequence_ms = 0.1, .prompt_token_ms = 1});
  }
  for (int i = 0; i < 40; ++i) {
    cli::TraceRequest request = At(0.5 * i, 64, 4);
    request.prefix_blocks = {static_cast<uint64_t>(i % 4)};  // four prompts, again and again
    arrivals_.trace.push_back(request);
  }
  const SimulationResult result = Run();
  EXPECT_GT(static_cast<double>(result.cached_tokens), 0.6 * static_cast<double>(result.prompt_tokens));
}

TEST_F(SimulationTest, OverloadIsRefusedAndEveryRequestEnds) {
  AddExecutor({.fixed_ms = 50}).max_sequences = 2;
  AddExecutor({.fixed_ms = 200}).kv_blocks = 6;
  options_.queue.max_requests = 5;
  arrivals_.trace = {At(0, 30, 20), At(0.01, 90, 30), At(0.02, 3, 40)};
  arrivals_.requests = 300;
  const SimulationResult result = Run();
  EXPECT_GT(result.failures.at("RESOURCE_EXHAUSTED"), 100U);
  EXPECT_EQ(result.failures.size(), 1U);
  EXPECT_EQ(result.ttft_ms.size() + result.failures.at("RESOURCE_EXHAUSTED"), 300U);
}

TEST_F(SimulationTest, RunningOutOfKvBlocksCostsTimeOnly) {
  AddExecutor({.fixed_ms = 10, .prompt_token_ms = 0.1}).kv_blocks = 8;
  for (int i = 0; i < 20; ++i) {
    arrivals_.trace.push_back(At(0.001 * i, 16, 60));
  }
  const SimulationResult result = Run();
  EXPECT_EQ(result.ttft_ms.size(), 20U);
  EXPECT_EQ(result.tokens, 20U * 60U);
  EXPECT_GT(result.preemptions, 0U);
}

TEST_F(SimulationTest, TheSameTwice) {
  for (int i = 0; i < 3; ++i) {
    AddExecutor({.fixed_ms = 5.0 + i, .sequence_ms = 1, .prompt_token_ms = 0.5});
  }
  arrivals_.trace = cli::PoissonTrace(300, 50, 40, 20, 7);
  const SimulationResult once = Run();
  const SimulationResult again = Run();
  EXPECT_EQ(once.ttft_ms, again.ttft_ms);
  EXPECT_EQ(once.tpot_ms, again.tpot_ms);
}

TEST_F(SimulationTest, ARateIsKept) {
  AddExecutor({.fixed_ms = 1});
  arrivals_.trace = {At(5, 4, 2), At(7, 4, 2), At(11, 4, 2)};
  arrivals_.requests = 901;
  arrivals_.rate = 30;
  EXPECT_NEAR(Run().arrival_seconds, 30, 0.2);
}

TEST_F(SimulationTest, TheReportCountsGoodAnswers) {
  SimulationResult result;
  result.ttft_ms = {10, 20, 30, 40};
  result.tpot_ms = {1, -1, 5, 1};
  result.seconds = 2;
  result.executors = {{10, 2, 0.5}, {30, 2, 1.0}};
  result.steps = 40;
  const auto report = ReportOf(result, {.max_ttft_ms = 30, .max_tpot_ms = 4}, /*each_executor=*/true);
  EXPECT_DOUBLE_EQ(report["good_answers_per_second"].get<double>(), 1);
  EXPECT_DOUBLE_EQ(report["time_to_first_token_ms"]["p50"].get<double>(), 20);
  EXPECT_DOUBLE_EQ(report["time_per_output_token_ms"]["max"].get<double>(), 5);
  EXPECT_NEAR(report["utilisation"]["max_to_mean"].get<double>(), 4.0 / 3, 1e-9);
  EXPECT_EQ(report["executors"].size(), 2U);
}

TEST(CostModelTest, IsFoundFromSteps) {
  const CostModel truth{.fixed_ms = 7, .sequence_ms = 0.5, .sequence_bit_ms = 0.25, .prompt_token_ms = 0.125};
  std::vector<MeasuredStep> steps;
  for (int i = 0; i < 200; ++i) {
    const double sequences = i % 9;
    const StepShape shape{sequences, sequences * (3 + i % 4), static_cast<double>(i % 5 == 0 ? 20 * (i % 11) : 0)};
    steps.push_back({shape, truth.Time(shape)});
  }
  const auto found = FitCostModel(steps);
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_NEAR(found->fixed_ms, 7, 0.01);
  EXPECT_NEAR(found->sequence_ms, 0.5, 0.05);
  EXPECT_NEAR(found->sequence_bit_ms, 0.25, 0.02);
  EXPECT_NEAR(found->prompt_token_ms, 0.125, 0.01);
  EXPECT_LT(MedianError(*found, steps), 0.01);
  steps.resize(3);
  EXPECT_FALSE(FitCostModel(steps).ok());
}

TEST(CostModelTest, NoTermIsNegative) {
  std::vector<MeasuredStep> steps;
  for (int i = 1; i < 20; ++i) {
    steps.push_back({{static_cast<double>(i), 0, 0}, absl::Milliseconds(40 - i)});  // wider is faster
  }
  const auto found = FitCostModel(steps);
  ASSERT_TRUE(found.ok());
  EXPECT_GE(found->sequence_ms, 0);
  EXPECT_GT(found->fixed_ms, 20);
}

TEST(CostModelTest, IsReadAndRefusedWithReasons) {
  const std::string path = ::testing::TempDir() + "/flexquant_cost_" + std::to_string(getpid()) + ".json";
  const auto read = [&](const std::string& text) {
    std::ofstream(path) << text;
    return ReadCostModel(path);
  };
  const auto good = read(ToJson({.fixed_ms = 3, .sequence_ms = 2, .prompt_token_ms = 1}));
  ASSERT_TRUE(good.ok()) << good.status();
  EXPECT_EQ(good->Time({1, 0, 4}), absl::Milliseconds(3 + 2 + 4));
  EXPECT_THAT(read(R"({"fixed_ms": -1})").status().message(), HasSubstr("fixed_ms"));
  EXPECT_THAT(read(R"({"fixed_ms": "1"})").status().message(), HasSubstr("fixed_ms"));
  EXPECT_FALSE(read("{}").ok());
  EXPECT_FALSE(read("[1]").ok());
  EXPECT_EQ(ReadCostModel(path + "x").status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace flexquant::simulate
