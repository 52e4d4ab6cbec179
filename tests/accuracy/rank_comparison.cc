#include "tests/accuracy/rank_comparison.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "executor/cpu_model_runner.h"
#include "executor/tensor_parallel/cpu_ranks.h"
#include "gtest/gtest.h"

namespace flexquant {
namespace {

// Token after `tokens`, whose first is at `start`, with its logits.
SampledToken Step(executor::ModelRunner& runner, const std::vector<uint32_t>& tokens, int64_t start,
                  const PrecisionPlan& plan, std::vector<float>* logits) {
  static const SamplingConfig greedy;
  static const TokenCounts counts;
  std::vector<uint32_t> blocks(16);
  std::iota(blocks.begin(), blocks.end(), 0U);
  executor::SequenceInput input;
  input.tokens = tokens;
  input.start = start;
  input.plan = &plan;
  input.block_table = blocks;
  input.num_logits = 1;
  input.sample = executor::SampleSpec{.config = &greedy, .counts = &counts};
  executor::StepOutput output;
  const absl::Status status = runner.RunStep({{input}}, &output);
  EXPECT_TRUE(status.ok()) << status;
  if (!status.ok() || !output.sequences[0].token.has_value()) {
    return {};
  }
  logits->assign(output.sequences[0].logits.begin(), output.sequences[0].logits.end());
  return *output.sequences[0].token;
}

}  // namespace

int RankComparison::Same() const {
  return std::inner_product(answer.begin(), answer.end(), tokens.begin(), 0, std::plus<>(), std::equal_to<>());
}

RankComparison CompareRanks(const ModelStore& store, int ranks, const std::vector<uint32_t>& prompt,
                            const PrecisionPlan& plan, int count) {
  executor::CpuRunnerOptions options;
  options.num_threads = 2;
  options.max_step_tokens = 64;
  options.kv_cache_bytes = uint64_t{32} << 20;
  executor::TensorParallelOptions parallel;
  parallel.ranks = ranks;
  const auto alone = executor::CpuModelRunner::Create(store, options);
  const auto together = executor::CreateCpuRanks(store, options, parallel);
  EXPECT_TRUE(alone.ok() && together.ok()) << alone.status() << together.status();
  RankComparison comparison;
  if (!alone.ok() || !together.ok()) {
    return comparison;
  }
  std::vector<uint32_t> tokens = prompt;
  int64_t start = 0;
  double error = 0;
  double norm = 0;
  std::vector<float> one;
  std::vector<float> all;
  for (int i = 0; i < count; ++i) {
    const SampledToken expected = Step(**alone, tokens, start, plan, &one);
    const SampledToken found = Step(**together, tokens, start, plan, &all);
    for (size_t j = 0; j < std::min(one.size(), all.size()); ++j) {
      error += std::pow(static_cast<double>(all[j]) - static_cast<double>(one[j]), 2);
      norm += std::pow(static_cast<double>(one[j]), 2);
    }
    comparison.answer.push_back(expected.id);
    comparison.tokens.push_back(found.id);
    start += static_cast<int64_t>(tokens.size());
    tokens = {expected.id};
  }
  comparison.relative_error = std::sqrt(error / norm);
  return comparison;
}

PrecisionPlan MixedPlan(int num_layer_groups) {
  std::mt19937 generator(11);
  PrecisionPlan plan = PrecisionPlan::Uniform(kTopPrecision, num_layer_groups);
  for (uint8_t& bits : plan.bits) {
    bits = static_cast<uint8_t>(kPrecisions[generator() % kPrecisions.size()]);
  }
  return plan;
}

}  // namespace flexquant
