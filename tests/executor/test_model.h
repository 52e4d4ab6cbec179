#ifndef FLEXQUANT_TESTS_EXECUTOR_TEST_MODEL_H_
#define FLEXQUANT_TESTS_EXECUTOR_TEST_MODEL_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "common/store/model_store.h"
#include "executor/cpu_model_runner.h"
#include "tests/testing/fake_model_source.h"

namespace flexquant::executor {

// A folder of its own that is removed at the end.
class TempFolder {
 public:
  TempFolder();
  ~TempFolder();
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// A package converted from a source, with reference, and open.
class TestModel {
 public:
  explicit TestModel(ModelSource& source, int64_t group_size = 32,
                     int fine_activations_from = kDefaultFineActivationsFrom);
  // A random model.
  static std::unique_ptr<TestModel> Random(const ModelConfig& config = FakeModelSource::TinyConfig(),
                                           int fine_activations_from = kDefaultFineActivationsFrom);

  const ModelStore& store() const { return *store_; }
  const std::string& path() const { return path_; }
  PrecisionPlan Uniform(int bits) const { return PrecisionPlan::Uniform(bits, store_->num_layer_groups()); }
  // Each layer group at a width of its own, depending on `seed`.
  PrecisionPlan Mixed(uint32_t seed) const;
  // `count` token ids depending on `seed`.
  std::vector<uint32_t> Tokens(size_t count, uint32_t seed = 1) const;

 private:
  TempFolder folder_;
  std::string path_;
  std::unique_ptr<ModelStore> store_;
};

// Options that suit a tiny model: blocks of 4 tokens, `num_blocks` of them.
CpuRunnerOptions SmallOptions(const ModelStore& store, uint32_t num_blocks = 64, int num_threads = 2);
std::unique_ptr<CpuModelRunner> MakeRunner(const ModelStore& store, const CpuRunnerOptions& options);

// first, first + 1, ...
std::vector<uint32_t> Blocks(uint32_t first, uint32_t count);

// `tokens` from position `start` on, with logits of all; tokens, plan and blocks must outlive it.
SequenceInput Input(absl::Span<const uint32_t> tokens, int64_t start, const PrecisionPlan& plan,
                    const std::vector<uint32_t>& blocks);

// Logits of every position of `tokens` [tokens * vocab], fed in chunks of these sizes (the last one repeats).
std::vector<float> AllLogits(ModelRunner& runner, const std::vector<uint32_t>& tokens, const PrecisionPlan& plan,
                             const std::vector<uint32_t>& blocks, const std::vector<size_t>& chunks);

}  // namespace flexquant::executor

#endif  // FLEXQUANT_TESTS_EXECUTOR_TEST_MODEL_H_
