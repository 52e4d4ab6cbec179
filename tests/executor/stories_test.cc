// stories260K, a real model: its greedy answer to BOS, computed in fp64 straight from the definition.

#include <cstdlib>
#include <filesystem>

#include "executor/evaluate.h"
#include "gtest/gtest.h"
#include "tests/executor/test_model.h"

namespace flexquant::executor {
namespace {

constexpr uint32_t kBos = 1;
const std::vector<uint32_t> kGolden = {
    403, 407, 261, 378, 432, 383, 286, 261, 376, 298, 315, 421, 395, 317, 426, 338, 401, 396, 267, 337, 410, 408,
    419, 292, 411, 322, 265, 282, 295, 433, 426, 385, 328, 432, 358, 394, 261, 370, 432, 352, 266, 268, 388, 426,
    338, 391, 266, 267, 337, 335, 312, 432, 398, 312, 286, 267, 414, 270, 333, 415, 426, 13,  438, 310, 439, 419,
    357, 336, 432, 313, 438, 310, 432, 278, 316, 439, 419, 298, 414, 267, 265, 282, 295, 433, 426, 436, 317, 286,
    296, 418, 269, 279, 292, 416, 439, 413, 409, 416, 327, 263, 415, 294, 267, 400, 426, 338, 336, 432, 313, 442,
    391, 267, 337, 335, 364, 420, 268, 388, 432, 398, 359, 280, 303, 439, 413, 272, 417, 264, 312, 426, 436, 13,
    438, 310, 286, 296, 418, 269, 279, 292, 416, 439, 413, 409, 416, 327, 263, 415, 294, 267, 400, 426, 338, 336,
    432, 313, 442, 439, 423, 262, 304, 420, 422, 432, 317, 426, 359, 279, 292, 416, 439, 413, 409, 416, 327, 263,
    415, 294, 267, 400, 426, 436, 13,  438, 310, 279, 292, 416, 439, 413, 391, 267, 281, 421, 427, 311, 357, 432,
    384, 358, 336, 432, 313, 442, 439, 423, 262, 304, 420, 422, 432, 357, 426, 359, 279, 292, 416, 439, 413, 409,
    416, 327, 263, 415, 294, 267, 400, 426, 436, 320, 285, 357, 336, 432, 313, 455, 289, 439, 413, 263, 304, 420,
    422, 432, 317, 426, 410, 448, 411, 280, 303, 281, 421, 427, 364, 426};

// The data folder's neighbour; empty if it is absent.
std::string StoriesPath() {
  const char* data = std::getenv("FLEXQUANT_TEST_DATA");
  const char* source = std::getenv("FLEXQUANT_SOURCE");
  std::filesystem::path folder = data != nullptr
                                     ? std::filesystem::path(data) / "../models"
                                     : std::filesystem::path(source != nullptr ? source : ".") / "../shared/models";
  const auto path = folder / "stories260K/stories260K.bin";
  return std::filesystem::exists(path) ? path.string() : "";
}

class StoriesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string path = StoriesPath();
    if (path.empty()) {
      GTEST_SKIP() << "stories260K is absent: set FLEXQUANT_TEST_DATA to a data folder with ../models beside it";
    }
    auto source = OpenModelSource(path);
    ASSERT_TRUE(source.ok()) << source.status();
    model_ = std::make_unique<TestModel>(**source, 32);
    runner_ = MakeRunner(model_->store(), SmallOptions(model_->store(), 128));
  }

  // Token by token, sampled by the runner.
  std::vector<uint32_t> Greedy(int bits, size_t count) {
    const PrecisionPlan plan = model_->Uniform(bits);
    const std::vector<uint32_t> blocks = Blocks(0, 128);
    const SamplingConfig config;
    const TokenCounts counts;
    std::vector<uint32_t> tokens = {kBos};
    StepOutput output;
    while (tokens.size() <= count) {
      SequenceInput input;
      input.tokens = absl::MakeConstSpan(tokens).last(1);
      input.start = static_cast<int64_t>(tokens.size()) - 1;
      input.plan = &plan;
      input.block_table = blocks;
      input.sample = SampleSpec{&config, &counts, 0, 0};
      const absl::Status status = runner_->RunStep({{input}}, &output);
      EXPECT_TRUE(status.ok()) << status;
      tokens.push_back(output.sequences[0].token->id);
    }
    return {tokens.begin() + 1, tokens.end()};
  }

  std::unique_ptr<TestModel> model_;
  std::unique_ptr<CpuModelRunner> runner_;
};

TEST_F(StoriesTest, GreedyAnswerOfTheReferenceIsTheGoldenOne) {
  EXPECT_EQ(Greedy(kReferencePrecision, kGolden.size()), kGolden);
}

TEST_F(StoriesTest, EightBitsBeginTheSameAnswer) {
  const auto tokens = Greedy(8, kGolden.size());
  size_t same = 0;
  while (same < kGolden.size() && tokens[same] == kGolden[same]) {
    ++same;
  }
  RecordProperty("same_tokens", static_cast<int>(same));
  EXPECT_GE(same, 40U);
}

TEST_F(StoriesTest, TheGoldenAnswerIsLessLikelyAtFewerBits) {
  std::vector<uint32_t> tokens = {kBos};
  tokens.insert(tokens.end(), kGolden.begin(), kGolden.end());
  double last = 0;
  for (const int bits : {16, 8, 6, 5, 4, 3}) {
    const auto result = Evaluate(*runner_, tokens, model_->Uniform(bits), 64);
    ASSERT_TRUE(result.ok()) << result.status();
    // Per token; 16 and 8 bits may lie within noise of each other.
    const double nats = result->nll_nats / static_cast<double>(result->num_scored);
    EXPECT_GT(nats, last - 0.01) << bits << " bits";
    last = nats;
  }
  EXPECT_GT(last, 0.1);
}

}  // namespace
}  // namespace flexquant::executor
