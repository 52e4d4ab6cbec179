// Audits: what they measure, and that nothing else changes by them.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "executor/session.h"
#include "tests/executor/fake_runner.h"
#include "tests/executor/test_model.h"

namespace flexquant::executor {
namespace {

using ::testing::HasSubstr;

constexpr uint32_t kPrompt = 7;

// One sequence on a stream of its own, fed token by token.
class Stream {
 public:
  explicit Stream(ModelRunner& runner, std::vector<PrecisionPlan> plans) : engine_(runner), session_(engine_) {
    v1::ExecuteRequest request;
    auto* table = request.mutable_open()->mutable_plans();
    for (const PrecisionPlan& plan : plans) {
      auto* added = table->add_plans();
      added->set_plan_id(static_cast<uint32_t>(table->plans_size() - 1));
      added->set_bits(plan.bits.data(), plan.bits.size());
    }
    EXPECT_TRUE(session_.Handle(request, absl::Now(), &response_).ok());
  }

  absl::Status Prefill(const std::vector<uint32_t>& tokens, const std::vector<uint32_t>& blocks) {
    v1::ExecuteRequest request = Step();
    auto* sequence = request.mutable_step()->mutable_sequences(0);
    sequence->mutable_token_ids()->Add(tokens.begin(), tokens.end());
    sequence->mutable_new_kv_blocks()->Add(blocks.begin(), blocks.end());
    auto* start = sequence->mutable_start();
    start->mutable_sampling()->set_top_p(1);
    start->mutable_sampling()->set_repetition_penalty(1);
    start->set_prompt_tokens(static_cast<uint32_t>(tokens.size()));
    start->set_full_logits(true);
    position_ += static_cast<uint32_t>(tokens.size());
    return session_.Handle(request, absl::Now(), &response_);
  }

  absl::Status Decode(uint32_t plan, bool audit) {
    v1::ExecuteRequest request = Step();
    auto* sequence = request.mutable_step()->mutable_sequences(0);
    sequence->set_plan_id(plan);
    sequence->set_audit(audit);
    ++position_;
    return session_.Handle(request, absl::Now(), &response_);
  }

  const v1::StepResult& step_result() const { return response_.result(); }
  const v1::SequenceResult& result() const { return response_.result().sequences(0); }
  std::vector<float> Logits() const {
    std::vector<float> logits(result().full_logits().size() / sizeof(float));
    std::memcpy(logits.data(), result().full_logits().data(), result().full_logits().size());
    return logits;
  }

 private:
  v1::ExecuteRequest Step() {
    v1::ExecuteRequest request;
    request.mutable_step()->set_step_id(++step_id_);
    auto* sequence = request.mutable_step()->add_sequences();
    sequence->set_sequence_id(1);
    sequence->set_position(position_);
    sequence->set_sample(true);
    return request;
  }

  Engine engine_;
  Session session_;
  v1::ExecuteResponse response_;
  uint64_t step_id_ = 0;
  uint32_t position_ = 0;
};

double Divergence(const std::vector<float>& p, const std::vector<float>& q) {
  const auto log_sum = [](const std::vector<float>& logits) {
    double sum = 0;
    for (const float logit : logits) {
      sum += std::exp(static_cast<double>(logit));
    }
    return std::log(sum);
  };
  const double p_sum = log_sum(p);
  const double q_sum = log_sum(q);
  double kl = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    const double log_p = static_cast<double>(p[i]) - p_sum;
    kl += std::exp(log_p) * (log_p - (static_cast<double>(q[i]) - q_sum));
  }
  return kl;
}

class AuditTest : public ::testing::Test {
 protected:
  AuditTest()
      : model_(TestModel::Random()),
        runner_(MakeRunner(model_->store(), SmallOptions(model_->store()))),
        plans_({model_->Uniform(8), model_->Uniform(3), model_->Mixed(1)}) {}

  const std::unique_ptr<TestModel> model_;
  const std::unique_ptr<CpuModelRunner> runner_;
  const std::vector<PrecisionPlan> plans_;
};

TEST_F(AuditTest, MeasuresTheTopPrecisionOnTheSameState) {
  Stream top(*runner_, plans_);
  ASSERT_TRUE(top.Prefill(model_->Tokens(kPrompt), Blocks(0, 4)).ok());
  ASSERT_TRUE(top.Decode(0, false).ok());
  Stream low(*runner_, plans_);
  ASSERT_TRUE(low.Prefill(model_->Tokens(kPrompt), Blocks(4, 4)).ok());
  ASSERT_TRUE(low.Decode(1, true).ok());
  ASSERT_TRUE(low.result().has_audit_kl());
  EXPECT_GT(low.result().audit_kl(), 1e-4);
  EXPECT_NEAR(low.result().audit_kl(), Divergence(top.Logits(), low.Logits()), 1e-5);
  // At the top precision there is no difference to measure.
  ASSERT_TRUE(low.Decode(0, true).ok());
  EXPECT_TRUE(low.result().has_audit_kl());
  EXPECT_EQ(low.result().audit_kl(), 0);
  ASSERT_TRUE(low.Decode(1, false).ok());
  EXPECT_FALSE(low.result().has_audit_kl());
}

TEST_F(AuditTest, LeavesTheSequenceAsItIs) {
  Stream plain(*runner_, plans_);
  Stream audited(*runner_, plans_);
  ASSERT_TRUE(plain.Prefill(model_->Tokens(kPrompt), Blocks(0, 5)).ok());
  ASSERT_TRUE(audited.Prefill(model_->Tokens(kPrompt), Blocks(5, 5)).ok());
  for (uint32_t i = 0; i < 10; ++i) {
    const uint32_t plan = i % 3;
    ASSERT_TRUE(plain.Decode(plan, false).ok());
    ASSERT_TRUE(audited.Decode(plan, i % 4 != 3).ok());
    EXPECT_EQ(plain.Logits(), audited.Logits()) << i;
    EXPECT_EQ(plain.result().token().SerializeAsString(), audited.result().token().SerializeAsString());
    const bool read_twice = plan != 0 && i % 4 != 3;
    EXPECT_EQ(audited.step_result().weight_bytes_read() > plain.step_result().weight_bytes_read(), read_twice);
  }
}

TEST_F(AuditTest, IsForDecodeStepsOfBackendsThatCan) {
  Stream stream(*runner_, plans_);
  ASSERT_TRUE(stream.Prefill(model_->Tokens(kPrompt), Blocks(0, 4)).ok());
  EXPECT_TRUE(runner_->info().audits);

  FakeRunner fake;
  Engine engine(fake);
  Session session(engine);
  v1::ExecuteResponse response;
  v1::ExecuteRequest open;
  auto* plan = open.mutable_open()->mutable_plans()->add_plans();
  plan->set_bits(std::string(5, 8));
  ASSERT_TRUE(session.Handle(open, absl::Now(), &response).ok());
  v1::ExecuteRequest step;
  step.mutable_step()->set_step_id(1);
  step.mutable_step()->add_sequences()->set_audit(true);
  absl::Status status = session.Handle(step, absl::Now(), &response);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(status.message()), HasSubstr("fake cannot audit"));
  fake.mutable_info().audits = true;
  status = session.Handle(step, absl::Now(), &response);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("decode steps that sample"));
}

}  // namespace
}  // namespace flexquant::executor
