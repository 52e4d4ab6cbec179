#include "tests/executor/test_model.h"

#include <algorithm>
#include <filesystem>
#include <numeric>
#include <random>

#include "common/check.h"
#include "common/store/convert.h"
#include "gtest/gtest.h"

namespace flexquant::executor {

TempFolder::TempFolder() {
  std::string pattern = (std::filesystem::temp_directory_path() / "flexquant-executor.XXXXXX").string();
  FQ_CHECK(mkdtemp(pattern.data()) != nullptr);
  path_ = pattern;
}

TempFolder::~TempFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

TestModel::TestModel(ModelSource& source, int64_t group_size, int fine_activations_from)
    : path_(folder_.path() + "/model") {
  ConvertOptions options;
  options.group_size = group_size;
  options.fine_activations_from = fine_activations_from;
  options.keep_reference = true;
  const auto report = Convert(source, path_, options);
  EXPECT_TRUE(report.ok()) << report.status();
  auto store = ModelStore::Open(path_);
  EXPECT_TRUE(store.ok()) << store.status();
  store_ = *std::move(store);
}

std::unique_ptr<TestModel> TestModel::Random(const ModelConfig& config, int fine_activations_from) {
  FakeModelSource source(config);
  return std::make_unique<TestModel>(source, 32, fine_activations_from);
}

PrecisionPlan TestModel::Mixed(uint32_t seed) const {
  std::mt19937 generator(seed);
  PrecisionPlan plan = Uniform(8);
  for (uint8_t& bits : plan.bits) {
    bits = static_cast<uint8_t>(kPrecisions[generator() % kPrecisions.size()]);
  }
  return plan;
}

std::vector<uint32_t> TestModel::Tokens(size_t count, uint32_t seed) const {
  std::mt19937 generator(seed);
  std::vector<uint32_t> tokens(count);
  for (uint32_t& token : tokens) {
    token = static_cast<uint32_t>(generator() % static_cast<uint64_t>(store_->config().vocab_size));
  }
  return tokens;
}

CpuRunnerOptions SmallOptions(const ModelStore& store, uint32_t num_blocks, int num_threads) {
  const ModelConfig& config = store.config();
  CpuRunnerOptions options;
  options.num_threads = num_threads;
  options.kv_block_tokens = 4;
  options.max_sequences = 8;
  options.max_step_tokens = 96;
  options.kv_cache_bytes =
      KvCache::Shape{config.num_layers, config.num_kv_heads, config.head_dim, options.kv_block_tokens, num_blocks}
          .Bytes();
  return options;
}

std::unique_ptr<CpuModelRunner> MakeRunner(const ModelStore& store, const CpuRunnerOptions& options) {
  auto runner = CpuModelRunner::Create(store, options);
  EXPECT_TRUE(runner.ok()) << runner.status();
  return *std::move(runner);
}

std::vector<uint32_t> Blocks(uint32_t first, uint32_t count) {
  std::vector<uint32_t> blocks(count);
  std::iota(blocks.begin(), blocks.end(), first);
  return blocks;
}

SequenceInput Input(absl::Span<const uint32_t> tokens, int64_t start, const PrecisionPlan& plan,
                    const std::vector<uint32_t>& blocks) {
  SequenceInput input;
  input.tokens = tokens;
  input.start = start;
  input.plan = &plan;
  input.block_table = blocks;
  input.num_logits = static_cast<int64_t>(tokens.size());
  return input;
}

std::vector<float> AllLogits(ModelRunner& runner, const std::vector<uint32_t>& tokens, const PrecisionPlan& plan,
                             const std::vector<uint32_t>& blocks, const std::vector<size_t>& chunks) {
  std::vector<float> logits;
  StepOutput output;
  size_t next = 0;
  for (size_t start = 0; start < tokens.size();) {
    const size_t count = std::min(chunks[std::min(next++, chunks.size() - 1)], tokens.size() - start);
    const auto chunk = absl::MakeConstSpan(tokens).subspan(start, count);
    const absl::Status status = runner.RunStep({{Input(chunk, static_cast<int64_t>(start), plan, blocks)}}, &output);
    EXPECT_TRUE(status.ok()) << status;
    EXPECT_TRUE(output.sequences[0].status.ok()) << output.sequences[0].status;
    logits.insert(logits.end(), output.sequences[0].logits.begin(), output.sequences[0].logits.end());
    start += count;
  }
  return logits;
}

}  // namespace flexquant::executor
