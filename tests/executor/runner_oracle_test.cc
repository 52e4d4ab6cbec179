// The CPU runner against the plain fp64 forward pass.

#include <algorithm>
#include <cmath>

#include "gtest/gtest.h"
#include "tests/executor/naive_forward.h"
#include "tests/executor/test_model.h"

namespace flexquant::executor {
namespace {

// Relative L2 error of each position's logits, ascending.
std::vector<double> SortedErrors(const std::vector<float>& a, const std::vector<double>& b, size_t vocab) {
  EXPECT_EQ(a.size(), b.size());
  std::vector<double> errors;
  for (size_t begin = 0; begin < a.size() && a.size() == b.size(); begin += vocab) {
    double error = 0;
    double norm = 0;
    for (size_t i = begin; i < begin + vocab; ++i) {
      error += (static_cast<double>(a[i]) - b[i]) * (static_cast<double>(a[i]) - b[i]);
      norm += b[i] * b[i];
    }
    errors.push_back(std::sqrt(error / norm));
  }
  std::sort(errors.begin(), errors.end());
  return errors;
}

// fp32 differs from fp64 by about 1e-7, until a value lies so near the middle of two int8 (or fp16) values that it is
// rounded to the other one: from there on a position, and those that attend to it, differ by the noise of quantising,
// up to 0.02. So at every width some positions must agree closely, and at some width all.
void ExpectMatchesOracle(const ModelConfig& config, size_t num_tokens) {
  const auto model = TestModel::Random(config);
  const auto runner = MakeRunner(model->store(), SmallOptions(model->store()));
  const std::vector<uint32_t> tokens = model->Tokens(num_tokens);
  const auto vocab = static_cast<size_t>(config.vocab_size);
  const std::vector<PrecisionPlan> plans = {model->Uniform(3),
                                            model->Uniform(4),
                                            model->Uniform(5),
                                            model->Uniform(6),
                                            model->Uniform(8),
                                            model->Mixed(3),
                                            model->Uniform(kReferencePrecision)};
  int exact_plans = 0;
  for (const PrecisionPlan& plan : plans) {
    const auto errors = SortedErrors(AllLogits(*runner, tokens, plan, Blocks(0, 32), {7, 1, 16}),
                                     NaiveForward(model->store(), tokens, plan), vocab);
    ASSERT_EQ(errors.size(), num_tokens);
    if (plan.bits[0] == kReferencePrecision) {
      EXPECT_LT(errors.back(), 1e-3);
      continue;
    }
    EXPECT_LT(errors.front(), 1e-3) << int{plan.bits[0]} << " bits first";
    EXPECT_LT(errors.back(), 0.05) << int{plan.bits[0]} << " bits first";
    exact_plans += errors.back() < 1e-5 ? 1 : 0;
  }
  EXPECT_GE(exact_plans, 1);
}

TEST(RunnerOracleTest, TiedLlamaWithGroupedHeads) { ExpectMatchesOracle(FakeModelSource::TinyConfig(), 40); }

// A package whose 6 bits have 8-bit activations: the oracle that rounds as coarsely is nearer, and other widths are the
// usual package's to the last bit.
TEST(RunnerOracleTest, FineActivationsFromEightBits) {
  const auto usual = TestModel::Random();
  const auto coarse = TestModel::Random(FakeModelSource::TinyConfig(), 8);
  const std::vector<uint32_t> tokens = usual->Tokens(20);
  const auto logits = [&](const TestModel& model, int bits) {
    const auto runner = MakeRunner(model.store(), SmallOptions(model.store()));
    return AllLogits(*runner, tokens, model.Uniform(bits), Blocks(0, 32), {7, 1, 16});
  };
  EXPECT_EQ(logits(*usual, 5), logits(*coarse, 5));
  EXPECT_EQ(logits(*usual, 8), logits(*coarse, 8));
  const std::vector<float> six = logits(*coarse, 6);
  const auto vocab = static_cast<size_t>(coarse->store().config().vocab_size);
  const auto own = SortedErrors(six, NaiveForward(coarse->store(), tokens, coarse->Uniform(6)), vocab);
  const auto other = SortedErrors(six, NaiveForward(usual->store(), tokens, usual->Uniform(6)), vocab);
  EXPECT_LT(own.front(), 1e-5);
  EXPECT_GT(other.front(), 1e-4);
}

TEST(RunnerOracleTest, UntiedHeadAndOneKvHead) {
  ModelConfig config = FakeModelSource::TinyConfig();
  config.tied_head = false;
  config.num_kv_heads = 1;
  ExpectMatchesOracle(config, 20);
}

TEST(RunnerOracleTest, SizesThatFillNoTileOrUnit) {
  ModelConfig config = FakeModelSource::TinyConfig();
  config.hidden_size = 40;
  config.intermediate_size = 43;
  config.num_heads = 3;
  config.num_kv_heads = 3;
  config.head_dim = 10;
  config.vocab_size = 37;
  ExpectMatchesOracle(config, 20);
}

TEST(RunnerOracleTest, SlidingWindow) {
  ModelConfig config = FakeModelSource::TinyConfig();
  config.family = "mistral";
  config.sliding_window = 6;
  ExpectMatchesOracle(config, 40);
}

TEST(RunnerOracleTest, Biases) {
  ModelConfig config = FakeModelSource::TinyConfig();
  config.qkv_bias = true;
  config.o_bias = true;
  config.mlp_bias = true;
  ExpectMatchesOracle(config, 20);
}

TEST(RunnerOracleTest, QueryAndKeyNorms) {
  ModelConfig config = FakeModelSource::TinyConfig();
  config.family = "qwen3";
  config.qk_norm = true;
  ExpectMatchesOracle(config, 20);
}

TEST(RunnerOracleTest, LinearRopeScaling) {
  ModelConfig config = FakeModelSource::TinyConfig();
  config.rope.scaling = RopeScaling::kLinear;
  config.rope.factor = 4;
  ExpectMatchesOracle(config, 20);
}

TEST(RunnerOracleTest, Llama3RopeScaling) {
  ModelConfig config = FakeModelSource::TinyConfig();
  config.rope.scaling = RopeScaling::kLlama3;
  config.rope.factor = 8;
  config.rope.low_freq_factor = 1;
  config.rope.high_freq_factor = 4;
  config.rope.original_max_position = 64;  // wavelengths of this head lie on both sides and between
  ExpectMatchesOracle(config, 40);
}

}  // namespace
}  // namespace flexquant::executor
