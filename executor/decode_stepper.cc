#include "executor/decode_stepper.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#ifdef FLEXQUANT_HAVE_CUDA
#include "executor/cuda/cuda_bench.h"
#endif

namespace flexquant::executor {
namespace {

class RunnerStepper : public DecodeStepper {
 public:
  RunnerStepper(ModelRunner& runner, int64_t context, int64_t steps)
      : runner_(runner), context_(context), tokens_(static_cast<size_t>(context + steps)) {
    for (size_t i = 0; i < tokens_.size(); ++i) {
      tokens_[i] = static_cast<uint32_t>((7919 * i + 13) % static_cast<uint64_t>(runner.info().vocab_size));
    }
    blocks_.resize((tokens_.size() + runner.info().kv_block_tokens - 1) / runner.info().kv_block_tokens);
    std::iota(blocks_.begin(), blocks_.end(), 0U);
  }

  absl::Status Prefill() {
    const PrecisionPlan top = PrecisionPlan::Uniform(kTopPrecision, runner_.info().num_layer_groups);
    for (int64_t begin = 0; begin < context_; begin += runner_.info().max_step_tokens) {
      const int64_t count = std::min<int64_t>(runner_.info().max_step_tokens, context_ - begin);
      FQ_RETURN_IF_ERROR(Run(begin, count, top, /*sample=*/false));
    }
    return absl::OkStatus();
  }

  const std::string& device() const override { return runner_.info().device; }
  // A runner's step ends before it returns.
  absl::Status Start(int64_t step, const PrecisionPlan& plan) override {
    return Run(context_ + step, 1, plan, /*sample=*/true);
  }
  absl::Status Finish() override { return absl::OkStatus(); }

 private:
  absl::Status Run(int64_t begin, int64_t count, const PrecisionPlan& plan, bool sample) {
    SequenceInput input;
    input.tokens = absl::MakeConstSpan(tokens_).subspan(static_cast<size_t>(begin), static_cast<size_t>(count));
    input.start = begin;
    input.plan = &plan;
    input.block_table = blocks_;
    if (sample) {
      input.sample = SampleSpec{&greedy_, &no_tokens_, 0, 0};
    }
    FQ_RETURN_IF_ERROR(runner_.RunStep({{input}}, &output_));
    return output_.sequences[0].status;
  }

  ModelRunner& runner_;
  const int64_t context_;
  std::vector<uint32_t> tokens_;
  std::vector<uint32_t> blocks_;
  const SamplingConfig greedy_;
  const TokenCounts no_tokens_;
  StepOutput output_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<DecodeStepper>> MakeRunnerStepper(ModelRunner& runner, int64_t context, int64_t steps) {
  const RunnerInfo& info = runner.info();
  const int64_t most = std::min<int64_t>(info.max_context, static_cast<int64_t>(info.kv_blocks) * info.kv_block_tokens);
  if (context + steps > most) {
    return absl::ResourceExhaustedError(absl::StrCat("a context of ", context, " tokens and ", steps,
                                                     " steps do not fit into ", most,
                                                     " tokens of the model and its KV cache; shorten the context"));
  }
  auto stepper = std::make_unique<RunnerStepper>(runner, context, steps);
  FQ_RETURN_IF_ERROR(stepper->Prefill());
  return stepper;
}

absl::StatusOr<std::unique_ptr<DecodeStepper>> MakeDeviceStepper(const DeviceBenchOptions& options) {
#ifdef FLEXQUANT_HAVE_CUDA
  return MakeCudaStepper(options);
#else
  (void)options;
  return NoCudaError();
#endif
}

}  // namespace flexquant::executor
