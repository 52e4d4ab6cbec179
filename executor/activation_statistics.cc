#include "executor/activation_statistics.h"

#include <algorithm>
#include <iterator>
#include <numeric>

#include "common/precision.h"
#include "common/status_macros.h"
#include "executor/cpu_model_runner.h"

namespace flexquant::executor {
namespace {

constexpr uint32_t kKvBlockTokens = 16;

// Adds the squares of inputs [rows, cols] to each column's sum.
void AddSquares(absl::Span<const float> inputs, size_t rows, ThreadPool& pool, std::vector<double>& sums) {
  const size_t cols = sums.size();
  pool.ParallelFor(static_cast<int64_t>(cols), [&](int64_t begin, int64_t end, int /*thread*/) {
    for (size_t r = 0; r < rows; ++r) {
      for (auto j = static_cast<size_t>(begin); j < static_cast<size_t>(end); ++j) {
        const auto x = static_cast<double>(inputs[r * cols + j]);
        sums[j] += x * x;
      }
    }
  });
}

// Adds the products of inputs [rows, cols] to each block's sums: each thread takes rows of them, so that every sum has
// one order.
void AddProducts(absl::Span<const float> inputs, int64_t rows, ThreadPool& pool, InputMoments& sums) {
  constexpr int64_t kAtOnce = 4;
  const int64_t cols = sums.cols();
  pool.ParallelChunks(cols, 16, [&](int64_t begin, int64_t end, int /*thread*/) {
    for (int64_t at = begin; at < end; ++at) {
      const int64_t block = at / sums.size(0);
      const int64_t first = sums.begin(block);
      const int64_t size = sums.size(block);
      float* const out = sums.row(block, at - first);
      int64_t t = 0;
      for (; t + kAtOnce <= rows; t += kAtOnce) {
        const float* x = inputs.data() + t * cols + first;
        const float a = x[at - first];
        const float b = x[cols + at - first];
        const float c = x[2 * cols + at - first];
        const float d = x[3 * cols + at - first];
        for (int64_t k = 0; k < size; ++k) {
          out[k] += (a * x[k] + b * x[cols + k]) + (c * x[2 * cols + k] + d * x[3 * cols + k]);
        }
      }
      for (; t < rows; ++t) {
        const float* x = inputs.data() + t * cols + first;
        const float a = x[at - first];
        for (int64_t k = 0; k < size; ++k) {
          out[k] += a * x[k];
        }
      }
    }
  });
}

}  // namespace

absl::StatusOr<ActivationStatistics> MeasureActivations(const ModelStore& store,
                                                        const std::vector<std::vector<uint32_t>>& windows,
                                                        const ActivationStatisticsOptions& options) {
  if (!store.has_reference()) {
    return absl::FailedPreconditionError("the package has no unquantised weights to measure activations with");
  }
  size_t longest = 0;
  for (const std::vector<uint32_t>& window : windows) {
    longest = std::max(longest, window.size());
  }
  if (longest == 0) {
    return absl::InvalidArgumentError("there is no text to measure activations on");
  }
  const ModelConfig& config = store.config();
  KvCache::Shape shape{config.num_layers, config.num_kv_heads, config.head_dim, kKvBlockTokens, 0};
  shape.num_blocks = (static_cast<uint32_t>(longest) + kKvBlockTokens - 1) / kKvBlockTokens;
  CpuRunnerOptions runner_options;
  runner_options.num_threads = options.num_threads;
  runner_options.kv_block_tokens = kKvBlockTokens;
  runner_options.kv_cache_bytes = shape.Bytes();
  runner_options.max_sequences = 1;
  runner_options.max_step_tokens = static_cast<uint32_t>(longest);
  runner_options.rescore = false;  // nothing runs below 8 bits
  FQ_ASSIGN_OR_RETURN(const auto runner, CpuModelRunner::Create(store, runner_options));

  std::vector<std::vector<double>> sums;
  ActivationStatistics statistics;
  for (int group = 0; group < store.num_layer_groups(); ++group) {
    sums.emplace_back(static_cast<size_t>(store.layer_group(group).cols));
    statistics.moments.emplace_back(store.layer_group(group).cols);
  }
  runner->set_input_observer([&](int group, int64_t rows, absl::Span<const float> inputs) {
    AddSquares(inputs, static_cast<size_t>(rows), runner->pool(), sums[static_cast<size_t>(group)]);
    AddProducts(inputs, rows, runner->pool(), statistics.moments[static_cast<size_t>(group)]);
  });
  const PrecisionPlan plan = PrecisionPlan::Uniform(kReferencePrecision, store.num_layer_groups());
  std::vector<uint32_t> block_table(shape.num_blocks);
  std::iota(block_table.begin(), block_table.end(), 0U);
  size_t tokens = 0;
  for (size_t i = 0; i < windows.size(); ++i) {
    if (options.cancelled && options.cancelled()) {
      return absl::CancelledError("stopped on request");
    }
    SequenceInput sequence;
    sequence.tokens = windows[i];
    sequence.plan = &plan;
    sequence.block_table = block_table;
    sequence.num_logits = static_cast<int64_t>(windows[i].size());
    StepOutput output;
    FQ_RETURN_IF_ERROR(runner->RunStep({{sequence}}, &output));
    FQ_RETURN_IF_ERROR(output.sequences[0].status);
    tokens += windows[i].size();
    if (options.progress) {
      options.progress(i + 1, windows.size());
    }
  }
  for (InputMoments& moments : statistics.moments) {
    moments.Scale(1.0F / static_cast<float>(tokens));
  }
  for (const std::vector<double>& sum : sums) {
    std::vector<float>& mean = statistics.mean_square.emplace_back();
    std::transform(sum.begin(), sum.end(), std::back_inserter(mean),
                   [&](double s) { return static_cast<float>(s / static_cast<double>(tokens)); });
  }
  return statistics;
}

}  // namespace flexquant::executor
