#include "executor/evaluate.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace flexquant::executor {

absl::StatusOr<EvalResult> Evaluate(ModelRunner& runner, absl::Span<const uint32_t> tokens, const PrecisionPlan& plan,
                                    int chunk_tokens) {
  const RunnerInfo& info = runner.info();
  if (tokens.size() < 2) {
    return absl::InvalidArgumentError(absl::StrCat(tokens.size(), " tokens to evaluate; at least 2 are needed"));
  }
  if (chunk_tokens < 1 || static_cast<uint32_t>(chunk_tokens) > info.max_step_tokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("chunks of ", chunk_tokens, " tokens; allowed: 1 to ", info.max_step_tokens));
  }
  const uint64_t capacity =
      std::min(static_cast<uint64_t>(info.max_context), static_cast<uint64_t>(info.kv_blocks) * info.kv_block_tokens);
  // The last token is only a target.
  const size_t inputs = tokens.size() - 1;
  if (inputs > capacity) {
    return absl::InvalidArgumentError(absl::StrCat(tokens.size(),
                                                   " tokens to evaluate; the context and the KV cache "
                                                   "allow ",
                                                   capacity + 1));
  }
  std::vector<uint32_t> blocks((inputs + info.kv_block_tokens - 1) / info.kv_block_tokens);
  std::iota(blocks.begin(), blocks.end(), 0U);

  EvalResult result;
  StepOutput output;
  for (size_t start = 0; start < inputs; start += static_cast<size_t>(chunk_tokens)) {
    const size_t count = std::min(static_cast<size_t>(chunk_tokens), inputs - start);
    SequenceInput sequence;
    sequence.tokens = tokens.subspan(start, count);
    sequence.start = static_cast<int64_t>(start);
    sequence.plan = &plan;
    sequence.block_table = blocks;
    sequence.score_targets = tokens.subspan(start + 1, count);
    FQ_RETURN_IF_ERROR(runner.RunStep({{sequence}}, &output));
    FQ_RETURN_IF_ERROR(output.sequences[0].status);
    for (const float score : output.sequences[0].scores) {
      result.nll_nats -= static_cast<double>(score);
    }
    result.num_scored += count;
    result.weight_bytes_read += output.weight_bytes_read;
  }
  return result;
}

}  // namespace flexquant::executor
