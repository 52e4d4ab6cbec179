// Budgets of KL through the whole controller.

#include <gtest/gtest.h>

#include <set>
#include <vector>

#include "tests/controller/calibrated_model.h"
#include "tests/controller/service_fixture.h"

namespace flexquant::controller {
namespace {

using testing::RecordedSequence;
using testing::RecordedStep;

// Certain of two tokens in three.
testing::FakeExecutor::Script Wavering(uint32_t length) {
  return [length](const std::vector<uint32_t>& /*prompt*/, uint32_t index) {
    return testing::ScriptedToken{index < length ? 'a' + index % 26 : kEos, index % 3 == 0 ? 3.0F : 0.05F, {}};
  };
}

class RequirementServiceTest : public ServiceTest {
 protected:
  RequirementServiceTest() { model_ = CalibratedTestModel(1); }
};

TEST_F(RequirementServiceTest, ReportSaysWhatWasAskedForAndPredicted) {
  AddExecutor(Wavering(90));
  StartController();
  const auto unset = Stream(Request("x"));
  ASSERT_TRUE(unset.status.ok()) << unset.status;
  EXPECT_EQ(unset.started.effective().precision().max_mean_kl(), 0.01);
  EXPECT_EQ(unset.finished.precision().max_mean_kl(), 0.01);

  v1::GenerateRequest request = Request("x");
  request.mutable_precision()->set_max_mean_kl(0.2);
  const v1::PrecisionReport report = Stream(request).finished.precision();
  EXPECT_EQ(report.policy(), "max_mean_kl");
  EXPECT_EQ(report.max_mean_kl(), 0.2);
  EXPECT_GT(report.predicted_mean_kl(), 0);
  EXPECT_TRUE(report.within_budget());
  EXPECT_LE(report.predicted_mean_kl(), 0.2);
  EXPECT_LT(report.mean_bits(), unset.finished.precision().mean_bits());
  EXPECT_FALSE(report.has_target_mean_bits());

  // A budget that its bounds do not allow.
  request.mutable_precision()->set_max_mean_kl(0.001);
  request.mutable_precision()->set_max_bits(3);
  EXPECT_FALSE(Stream(request).finished.precision().within_budget());

  request.mutable_precision()->set_target_mean_bits(5);
  request.mutable_precision()->clear_max_bits();
  const v1::PrecisionReport bits = Stream(request).finished.precision();
  EXPECT_EQ(bits.target_mean_bits(), 5);
  EXPECT_NEAR(bits.mean_bits(), 5, 0.3);  // 90 tokens of an unusual text
  EXPECT_TRUE(bits.has_predicted_mean_kl());
  EXPECT_FALSE(bits.has_within_budget() || bits.has_max_mean_kl());

  request.mutable_precision()->set_fixed_bits(4);
  const v1::PrecisionReport fixed = Stream(request).finished.precision();
  EXPECT_FALSE(fixed.has_predicted_mean_kl() || fixed.has_within_budget());
}

TEST_F(RequirementServiceTest, WhatTheExecutorLosesCountsAndIsResumedWith) {
  Calibration calibration = TestCalibration();
  calibration.backend_loss.kv_cache_8 = 0.05;
  model_ = MakeModelPackage("tiny", "revision", TestConfig(), LayerGroups(TestConfig(), 32, Dtype::kF32),
                            /*has_reference=*/false, std::make_unique<ByteTokenizer>(), calibration, 1);
  testing::FakeExecutorOptions fake;
  fake.kv_cache_bits = 8;
  fake.audit_kl = 0.7;
  AddExecutor(Wavering(1000), fake);
  options_.worker.audit_rate = 0.5;
  StartController();
  v1::GenerateRequest request = Request("x", 60);
  request.set_batch_mode(v1::BATCH_MODE_ISOLATED);
  request.mutable_sampling()->set_seed(1);
  request.mutable_precision()->set_max_mean_kl(0.2);
  request.mutable_output()->set_token_info(true);
  const StreamOutcome whole = Stream(request);
  ASSERT_TRUE(whole.status.ok()) << whole.status;
  EXPECT_EQ(whole.started.backend_kl(), 0.05);
  EXPECT_GT(whole.finished.precision().predicted_mean_kl(), 0.05);
  EXPECT_TRUE(whole.finished.precision().within_budget());
  EXPECT_NEAR(whole.finished.precision().audit().mean_kl(), 0.75, 1e-9);

  request.mutable_resume()->set_kl_factor(whole.started.kl_factor());
  request.mutable_resume()->set_backend_kl(whole.started.backend_kl());
  for (int i = 0; i < 25; ++i) {
    v1::ResumedToken* token = request.mutable_resume()->add_tokens();
    token->set_id(whole.tokens[i].id());
    token->set_entropy_nats(whole.tokens[i].entropy_nats());
    token->set_top1_probability(whole.tokens[i].top1_probability());
    token->set_margin(whole.tokens[i].margin());
  }
  const StreamOutcome rest = Stream(request);
  ASSERT_TRUE(rest.status.ok()) << rest.status;
  EXPECT_EQ(rest.finished.precision().mean_bits(), whole.finished.precision().mean_bits());
  EXPECT_DOUBLE_EQ(rest.finished.precision().predicted_mean_kl(), whole.finished.precision().predicted_mean_kl());

  request.clear_resume();
  request.mutable_precision()->set_max_mean_kl(0.04);
  const v1::PrecisionReport nothing_left = Stream(request).finished.precision();
  EXPECT_FALSE(nothing_left.within_budget());
  EXPECT_GT(nothing_left.mean_bits(), 7.9);
}

TEST_F(RequirementServiceTest, AuditsAreReportedAndTeach) {
  testing::FakeExecutorOptions fake;
  fake.audit_kl = 0.7;
  AddExecutor(Wavering(1000), fake);
  options_.worker.audit_rate = 0.5;
  StartController();
  v1::GenerateRequest request = Request("x", 101);
  request.mutable_sampling()->set_seed(1);
  request.mutable_precision()->set_max_mean_kl(0.2);
  const v1::PrecisionReport first = Stream(request).finished.precision();
  EXPECT_NEAR(first.audit().tokens(), 50, 20);  // four standard deviations
  EXPECT_DOUBLE_EQ(first.audit().mean_kl(), 0.7);
  EXPECT_NEAR(first.audit().low_kl(), 0.7, 1e-9);
  EXPECT_NEAR(first.audit().high_kl(), 0.7, 1e-9);
  // More than expected was measured: the same answer is planned more carefully.
  const v1::PrecisionReport second = Stream(request).finished.precision();
  EXPECT_EQ(second.audit().tokens(), first.audit().tokens());
  EXPECT_GT(second.mean_bits(), first.mean_bits());
  // Each token says whether it was one.
  request.mutable_output()->set_token_info(true);
  const StreamOutcome third = Stream(request);
  uint32_t audited = 0;
  for (const v1::TokenInfo& token : third.tokens) {
    audited += token.has_audit_kl() ? 1 : 0;
    EXPECT_TRUE(!token.has_audit_kl() || token.audit_kl() == 0.7);
    EXPECT_EQ(kPrecisions[token.level()], token.bits());
  }
  EXPECT_EQ(audited, third.finished.precision().audit().tokens());
  // Only what is expected can be checked.
  request.mutable_precision()->set_fixed_bits(4);
  EXPECT_FALSE(Stream(request).finished.precision().has_audit());
  ExpectNoViolations();
}

TEST_F(RequirementServiceTest, ExecutorsThatCannotAuditAreNotAsked) {
  AddExecutor(Wavering(1000));
  options_.worker.audit_rate = 1;
  StartController();
  const auto outcome = Stream(Request("x", 50));
  EXPECT_TRUE(outcome.status.ok()) << outcome.status;
  EXPECT_FALSE(outcome.finished.precision().has_audit());
  ExpectNoViolations();
}

// Two answers in shared steps: the plans of their common decode steps, and both reports.
class SharedBudgetTest : public RequirementServiceTest {
 protected:
  void Run(const v1::GenerateRequest& one, const v1::GenerateRequest& other) {
    testing::FakeExecutor& executor = AddExecutor(Wavering(1000));
    executor.HoldResults();
    StartController();
    const auto first = OpenStarted(one);
    EXPECT_TRUE(executor.WaitForSteps(1));
    const auto second = OpenStarted(other);
    executor.ResumeResults();
    reports_ = {Rest(*first).finished.precision(), Rest(*second).finished.precision()};
    for (const RecordedStep& step : executor.steps()) {
      if (step.size() == 2 && step[0].token_ids.empty() && step[1].token_ids.empty()) {
        EXPECT_EQ(step[0].plan, step[1].plan);
        plans_.insert(step[0].plan[0]);
      }
    }
    ExpectNoViolations();
  }
  static v1::GenerateRequest Budget(double kl) {
    v1::GenerateRequest request = Request("budget", 60);
    request.mutable_precision()->set_max_mean_kl(kl);
    return request;
  }

  std::vector<v1::PrecisionReport> reports_;
  std::set<int> plans_;
};

TEST_F(SharedBudgetTest, OnePlanKeepsBothBudgets) {
  Run(Budget(0.05), Budget(0.4));
  EXPECT_GT(plans_.size(), 1U);
  EXPECT_TRUE(reports_[0].within_budget());
  EXPECT_TRUE(reports_[1].within_budget());
}

TEST_F(SharedBudgetTest, AStaticBatchMateForcesItsWidth) {
  v1::GenerateRequest fixed = Request("fixed", 60);
  fixed.mutable_precision()->set_fixed_bits(6);
  Run(Budget(0.4), fixed);
  EXPECT_GE(*plans_.begin(), 6);
  // What it got for nothing is not what it was predicted at its own level.
  EXPECT_LT(reports_[0].predicted_mean_kl(), 0.1);
}

}  // namespace
}  // namespace flexquant::controller
