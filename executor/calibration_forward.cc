#include "executor/calibration_forward.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "kernels/kernels.h"

namespace flexquant::executor {
namespace {

constexpr uint32_t kKvBlockTokens = 16;

}  // namespace

absl::StatusOr<std::unique_ptr<CalibrationForward>> CalibrationForward::Create(const ModelStore& store,
                                                                               Options options) {
  const ModelConfig& config = store.config();
  if (options.max_positions < 1 || options.max_positions > config.max_context) {
    return absl::InvalidArgumentError(absl::StrCat("windows of ", options.max_positions,
                                                   " positions; the model's context allows 1 to ", config.max_context));
  }
  KvCache::Shape shape{config.num_layers, config.num_kv_heads, config.head_dim, kKvBlockTokens, 0};
  shape.num_blocks = (static_cast<uint32_t>(options.max_positions) + kKvBlockTokens - 1) / kKvBlockTokens;
  CpuRunnerOptions runner_options;
  runner_options.coarse_prompts = true;  // those that a step says are prompts
  runner_options.num_threads = options.num_threads;
  runner_options.isa = options.isa;
  runner_options.rescore = options.rescore;
  runner_options.mapped_weights = options.mapped_weights;
  runner_options.kv_block_tokens = kKvBlockTokens;
  runner_options.kv_cache_bytes = shape.Bytes();
  runner_options.max_sequences = 1;
  runner_options.max_step_tokens = static_cast<uint32_t>(options.max_positions);
  FQ_ASSIGN_OR_RETURN(auto runner, CpuModelRunner::Create(store, runner_options));
  std::unique_ptr<CpuModelRunner> kv_8_runner;
  if (config.head_dim <= kMaxKv8HeadDim) {
    shape.bits = runner_options.kv_cache_bits = 8;
    runner_options.kv_cache_bytes = shape.Bytes();
    runner_options.mapped_weights = true;  // it has little to do
    runner_options.rescore = false;        // nor does the top precision's head need it
    FQ_ASSIGN_OR_RETURN(kv_8_runner, CpuModelRunner::Create(store, runner_options));
  }
  auto forward = std::unique_ptr<CalibrationForward>(
      new CalibrationForward(store, std::move(options), std::move(runner), std::move(kv_8_runner)));
  forward->block_table_.resize(shape.num_blocks);
  std::iota(forward->block_table_.begin(), forward->block_table_.end(), 0U);
  return forward;
}

CalibrationForward::CalibrationForward(const ModelStore& store, Options options, std::unique_ptr<CpuModelRunner> runner,
                                       std::unique_ptr<CpuModelRunner> kv_8_runner)
    : store_(store),
      options_(std::move(options)),
      runner_(std::move(runner)),
      kv_8_runner_(std::move(kv_8_runner)),
      top_plan_(PrecisionPlan::Uniform(kTopPrecision, store.num_layer_groups())) {}

absl::Status CalibrationForward::SetWindow(absl::Span<const uint32_t> tokens) {
  top_.clear();
  if (tokens.size() < 2 || tokens.size() > static_cast<size_t>(options_.max_positions) + 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("a window of ", tokens.size(), " tokens; allowed: 2 to ", options_.max_positions + 1));
  }
  tokens_.assign(tokens.begin(), tokens.end());
  const size_t positions = tokens_.size() - 1;
  hidden_.clear();
  hidden_.reserve((static_cast<size_t>(store_.config().num_layers) + 1) * positions *
                  static_cast<size_t>(store_.config().hidden_size));
  StepOutput output;
  FQ_RETURN_IF_ERROR(Run(
      *runner_, top_plan_, 0, {},
      [this](int64_t, absl::Span<const float> hidden) {
        hidden_.insert(hidden_.end(), hidden.begin(), hidden.end());
        return absl::OkStatus();
      },
      &output));
  const absl::Span<const float> logits = output.sequences[0].logits;
  top_logits_.assign(logits.begin(), logits.end());
  top_stats_.resize(positions);
  top_.resize(positions);
  const auto vocab = static_cast<size_t>(store_.config().vocab_size);
  runner_->pool().ParallelChunks(static_cast<int64_t>(positions), 1, [&](int64_t begin, int64_t end, int) {
    for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
      const float* row = top_logits_.data() + i * vocab;
      top_stats_[i] = runner_->kernels().logit_stats(row, static_cast<int64_t>(vocab));
      top_[i].signals = {top_stats_[i].entropy_nats, top_stats_[i].top1_probability, top_stats_[i].margin};
      top_[i].nll_nats = static_cast<double>(top_stats_[i].log_sum_exp) - static_cast<double>(row[tokens_[i + 1]]);
    }
  });
  return absl::OkStatus();
}

absl::StatusOr<std::vector<PositionDivergence>> CalibrationForward::Measure(const PrecisionPlan& plan) {
  FQ_RETURN_IF_ERROR(CheckWindow());
  FQ_RETURN_IF_ERROR(plan.Validate(store_.num_layer_groups(), store_.has_reference()));
  PassStart start;
  start.block = FirstLoweredBlock(plan);
  start.hidden = Hidden(start.block);
  return Compare(*runner_, plan, 0, start);
}

absl::StatusOr<std::vector<PositionDivergence>> CalibrationForward::MeasureKvCache8() {
  FQ_RETURN_IF_ERROR(CheckWindow());
  if (kv_8_runner_ == nullptr) {
    return std::vector<PositionDivergence>();
  }
  return Compare(*kv_8_runner_, top_plan_, 0, {});
}

absl::StatusOr<std::vector<PositionDivergence>> CalibrationForward::MeasureCoarsePrompts() {
  FQ_RETURN_IF_ERROR(CheckWindow());
  return Compare(*runner_, top_plan_, top_.size() / 2, {});
}

absl::Status CalibrationForward::CheckWindow() const {
  return top_.empty() ? absl::FailedPreconditionError("there is no window to measure on") : absl::OkStatus();
}

absl::StatusOr<std::vector<PositionDivergence>> CalibrationForward::Compare(CpuModelRunner& runner,
                                                                            const PrecisionPlan& plan,
                                                                            size_t prompt_tokens,
                                                                            const PassStart& start) {
  StepOutput output;
  FQ_RETURN_IF_ERROR(Run(
      runner, plan, prompt_tokens, start, [](int64_t, absl::Span<const float>) { return absl::OkStatus(); }, &output));
  const float* logits = output.sequences[0].logits.data();
  std::vector<PositionDivergence> divergences(top_.size() - prompt_tokens);
  const auto vocab = static_cast<size_t>(store_.config().vocab_size);
  runner_->pool().ParallelChunks(static_cast<int64_t>(divergences.size()), 1, [&](int64_t begin, int64_t end, int) {
    for (auto at = static_cast<size_t>(begin); at < static_cast<size_t>(end); ++at) {
      const size_t i = prompt_tokens + at;
      const float* row = logits + i * vocab;
      const LogitStats stats = runner_->kernels().logit_stats(row, static_cast<int64_t>(vocab));
      divergences[at].kl_nats =
          runner_->kernels().kl_divergence(top_logits_.data() + i * vocab, top_stats_[i].log_sum_exp, row,
                                           stats.log_sum_exp, static_cast<int64_t>(vocab));
      divergences[at].nll_nats = static_cast<double>(stats.log_sum_exp) - static_cast<double>(row[tokens_[i + 1]]);
      divergences[at].top1_agrees = stats.argmax == top_stats_[i].argmax;
    }
  });
  return divergences;
}

absl::Status CalibrationForward::Run(CpuModelRunner& runner, const PrecisionPlan& plan, size_t prompt_tokens,
                                     const PassStart& start, BlockObserver keep, StepOutput* output) {
  SequenceInput sequence;
  sequence.tokens = absl::MakeConstSpan(tokens_).first(tokens_.size() - 1);
  sequence.plan = &plan;
  sequence.block_table = block_table_;
  sequence.prompt_tokens = static_cast<int64_t>(prompt_tokens);
  sequence.num_logits = static_cast<int64_t>(sequence.tokens.size());
  FQ_RETURN_IF_ERROR(runner.RunFrom(
      {{sequence}}, start,
      [&](int64_t block, absl::Span<const float> hidden) {
        if (options_.cancelled && options_.cancelled()) {
          return absl::CancelledError("stopped on request");
        }
        return keep(block, hidden);
      },
      output));
  return output->sequences[0].status;
}

int64_t CalibrationForward::FirstLoweredBlock(const PrecisionPlan& plan) const {
  const auto differs = std::mismatch(plan.bits.begin(), plan.bits.end(), top_plan_.bits.begin()).first;
  return std::min((differs - plan.bits.begin()) / kLayerGroupsPerBlock, store_.config().num_layers);
}

absl::Span<const float> CalibrationForward::Hidden(int64_t block) const {
  const size_t size = top_.size() * static_cast<size_t>(store_.config().hidden_size);
  return absl::MakeConstSpan(hidden_).subspan(static_cast<size_t>(block) * size, size);
}

}  // namespace flexquant::executor
