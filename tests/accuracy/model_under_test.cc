#include "tests/accuracy/model_under_test.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <numeric>
#include <utility>

#include "common/check.h"
#include "common/model_source.h"
#include "common/precision.h"
#include "common/status_macros.h"
#include "executor/cpu_model_runner.h"
#include "gtest/gtest.h"
#include "kernels/sampling.h"

namespace flexquant {
namespace {

namespace fs = std::filesystem;

std::string Environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

fs::path SourceFolder() {
  const std::string source = Environment("FLEXQUANT_SOURCE");
  return source.empty() ? fs::current_path() : fs::path(source);
}

fs::path DataFolder() {
  const std::string data = Environment("FLEXQUANT_TEST_DATA");
  return data.empty() ? SourceFolder().parent_path() / "shared" / "data" : fs::path(data);
}

std::optional<std::string> IfExists(const fs::path& path) {
  return fs::exists(path) ? std::optional<std::string>(path.string()) : std::nullopt;
}

// A new, empty path of this process.
std::string FreshFolder() {
  static int count = 0;
  const std::string name = "flexquant-accuracy-" + std::to_string(getpid()) + "-" + std::to_string(count++);
  return (fs::path(::testing::TempDir()) / name).string();
}

}  // namespace

std::optional<std::string> FindStoriesFolder() {
  return IfExists(DataFolder().parent_path() / "models" / "stories260K");
}

std::optional<std::string> FindText(const std::string& name) { return IfExists(DataFolder() / "text" / name); }

std::optional<std::string> FindSmolLm2() {
  const std::string path = Environment("FLEXQUANT_SMOLLM2_GGUF");
  if (!path.empty()) {
    return IfExists(path);
  }
  const std::string cache = Environment("FLEXQUANT_CACHE");
  const fs::path folder = cache.empty() ? SourceFolder() / ".cache" : fs::path(cache);
  if (fs::is_directory(folder)) {
    for (const auto& entry : fs::recursive_directory_iterator(folder)) {
      if (entry.path().extension() == ".gguf" && entry.path().filename().string().starts_with("SmolLM2")) {
        return entry.path().string();
      }
    }
  }
  return std::nullopt;
}

std::string ReadFileOrDie(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  FQ_CHECK(file.good());
  return {std::istreambuf_iterator<char>(file), {}};
}

double Score::Perplexity() const { return std::exp(total_nats / static_cast<double>(num_tokens)); }

absl::StatusOr<std::unique_ptr<ModelUnderTest>> ModelUnderTest::Create(const std::string& source_path,
                                                                       int64_t group_size) {
  auto model = std::unique_ptr<ModelUnderTest>(new ModelUnderTest());
  model->folder_ = FreshFolder();
  FQ_ASSIGN_OR_RETURN(const auto source, OpenModelSource(source_path));
  ConvertOptions options;
  options.group_size = group_size;
  options.keep_reference = true;
  options.num_threads = 2;
  FQ_ASSIGN_OR_RETURN(model->report_, Convert(*source, model->folder_, options));
  FQ_ASSIGN_OR_RETURN(model->store_, ModelStore::Open(model->folder_));
  FQ_ASSIGN_OR_RETURN(model->tokenizer_, Tokenizer::Load(model->folder_));
  executor::CpuRunnerOptions runner_options;
  runner_options.num_threads = 2;
  FQ_ASSIGN_OR_RETURN(model->runner_, executor::CpuModelRunner::Create(*model->store_, runner_options));
  model->block_table_.resize(model->runner_->info().kv_blocks);
  std::iota(model->block_table_.begin(), model->block_table_.end(), 0U);
  return model;
}

ModelUnderTest::~ModelUnderTest() {
  runner_.reset();
  store_.reset();
  std::error_code ignored;
  fs::remove_all(folder_, ignored);
}

const executor::SequenceOutput& ModelUnderTest::RunStep(executor::SequenceInput input, int bits) {
  const auto plan = PrecisionPlan::Uniform(bits, store_->num_layer_groups());
  input.plan = &plan;
  input.block_table = block_table_;
  executor::StepBatch batch;
  batch.sequences.push_back(std::move(input));
  const absl::Status status = runner_->RunStep(batch, &output_);
  EXPECT_TRUE(status.ok()) << status;
  FQ_CHECK(status.ok());
  EXPECT_TRUE(output_.sequences[0].status.ok()) << output_.sequences[0].status;
  return output_.sequences[0];
}

std::vector<std::vector<float>> ModelUnderTest::Logits(const std::vector<uint32_t>& ids, int bits) {
  std::vector<std::vector<float>> logits;
  const auto vocab_size = static_cast<size_t>(runner_->info().vocab_size);
  for (size_t start = 0; start < ids.size(); start += runner_->info().max_step_tokens) {
    executor::SequenceInput input;
    input.tokens = absl::MakeConstSpan(ids).subspan(start, runner_->info().max_step_tokens);
    input.start = static_cast<int64_t>(start);
    input.num_logits = static_cast<int64_t>(input.tokens.size());
    const auto& rows = RunStep(input, bits).logits;
    for (size_t row = 0; row < input.tokens.size(); ++row) {
      const auto values = rows.subspan(row * vocab_size, vocab_size);
      logits.emplace_back(values.begin(), values.end());
    }
  }
  return logits;
}

void ModelUnderTest::AddScore(const std::vector<uint32_t>& ids, int bits, Score* score) {
  const auto inputs = absl::MakeConstSpan(ids).first(ids.size() - 1);
  const auto targets = absl::MakeConstSpan(ids).subspan(1);
  for (size_t start = 0; start < inputs.size(); start += runner_->info().max_step_tokens) {
    executor::SequenceInput input;
    input.tokens = inputs.subspan(start, runner_->info().max_step_tokens);
    input.start = static_cast<int64_t>(start);
    input.score_targets = targets.subspan(start, runner_->info().max_step_tokens);
    for (const float log_probability : RunStep(input, bits).scores) {
      score->total_nats -= log_probability;
      ++score->num_tokens;
    }
  }
}

std::vector<uint32_t> ModelUnderTest::Greedy(const std::vector<uint32_t>& prompt, int bits, int count) {
  const SamplingConfig greedy;
  TokenCounts counts;
  std::vector<uint32_t> answer;
  std::vector<uint32_t> tokens = prompt;
  int64_t start = 0;
  while (static_cast<int>(answer.size()) < count) {
    executor::SequenceInput input;
    input.tokens = tokens;
    input.start = start;
    input.sample = executor::SampleSpec{.config = &greedy, .counts = &counts, .draw = answer.size()};
    const auto& token = RunStep(input, bits).token;
    FQ_CHECK(token.has_value());
    start += static_cast<int64_t>(tokens.size());
    answer.push_back(token->id);
    tokens = {token->id};
  }
  return answer;
}

}  // namespace flexquant
