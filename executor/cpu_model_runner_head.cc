// The head and sampling: what follows the last block of a step.

#include <algorithm>
#include <bit>

#include "common/status_macros.h"
#include "executor/cpu_model_runner.h"

namespace flexquant::executor {
namespace {

bool AllFinite(absl::Span<const float> values) {
  uint32_t bad = 0;
  for (const float value : values) {
    bad |= (std::bit_cast<uint32_t>(value) & 0x7F800000U) == 0x7F800000U ? 1U : 0U;
  }
  return bad == 0;
}

}  // namespace

absl::Status CpuModelRunner::RunHead(const StepBatch& batch, StepOutput* output) {
  output->sequences.clear();
  output->sequences.resize(batch.sequences.size());
  order_input_.clear();
  for (size_t s = 0; s < batch.sequences.size(); ++s) {
    const SequenceInput& sequence = batch.sequences[s];
    const int64_t count = sequence.NumHeadRows();
    if (count > 0) {
      const int64_t end = first_row_[s] + static_cast<int64_t>(sequence.tokens.size());
      const int bits = sequence.plan->bits.back();
      order_input_.push_back({bits, ActivationBits(bits, store_.fine_activations_from()), end - count, count});
    }
  }
  if (order_input_.empty()) {
    return absl::OkStatus();
  }
  head_order_.Build(order_input_);
  const int64_t hidden = config_.hidden_size;
  Prepare(store_.lm_head(), info_.num_layer_groups - 1, head_order_, [&](int64_t row, float* out) {
    kernels_.rms_norm(hidden_.as<float>() + row * hidden, hidden, store_.final_norm().data(), 1, hidden,
                      static_cast<float>(config_.rms_norm_eps), out, hidden);
  });
  // Every rank puts its columns where one of them samples.
  float* const all_logits = rank_.logits != nullptr ? rank_.logits : logits_.as<float>();
  const int64_t vocab = info_.vocab_size;
  ahead_.ExpectNothing();
  bytes_read_ += linear_.Multiply(store_.lm_head(), head_order_, all_logits + rank_.shard.vocab.begin, vocab,
                                  [](int64_t, int64_t) {});
  FQ_RETURN_IF_ERROR(WaitForRanks());
  FQ_RETURN_IF_ERROR(RescoreHead(all_logits));

  pool_.ParallelChunks(static_cast<int64_t>(batch.sequences.size()), 1, [&](int64_t begin, int64_t end, int thread) {
    for (auto s = static_cast<size_t>(begin); s < static_cast<size_t>(end); ++s) {
      const SequenceInput& sequence = batch.sequences[s];
      const int64_t count = sequence.NumHeadRows();
      if (count > 0 && static_cast<int>(s % static_cast<size_t>(rank_.shard.ranks)) == rank_.shard.rank) {
        const int64_t row = first_row_[s] + static_cast<int64_t>(sequence.tokens.size()) - count;
        FinishSequence(sequence, {all_logits + head_order_.slot(row) * vocab, static_cast<size_t>(count * vocab)},
                       thread, &output->sequences[s]);
      }
    }
  });
  return absl::OkStatus();
}

absl::Status CpuModelRunner::RescoreHead(float* all_logits) {
  if (!rescorer_.Wanted(head_order_)) {
    return absl::OkStatus();
  }
  // Ranks choose from all logits and so alike; none may write before all have chosen.
  rescorer_.Choose(head_order_, all_logits);
  FQ_RETURN_IF_ERROR(WaitForRanks());
  bytes_read_ += rescorer_.Rescore(head_order_, linear_.Inputs(store_.lm_head(), head_order_), all_logits);
  return WaitForRanks();
}

void CpuModelRunner::FinishSequence(const SequenceInput& input, absl::Span<float> logits, int thread,
                                    SequenceOutput* output) {
  const auto vocab = static_cast<size_t>(info_.vocab_size);
  if (!AllFinite(logits)) {
    output->status = LogitsNotFiniteError();
    return;
  }
  for (size_t i = 0; i < input.score_targets.size(); ++i) {
    const absl::Span<float> row = logits.subspan(i * vocab, vocab);
    output->scores.push_back(row[input.score_targets[i]] -
                             kernels_.logit_stats(row.data(), info_.vocab_size).log_sum_exp);
  }
  if (input.sample.has_value()) {
    absl::Span<float> row = logits.last(vocab);
    if (input.num_logits > 0) {
      float* copy = penalised_.as<float>() + static_cast<size_t>(thread) * vocab;
      std::copy(row.begin(), row.end(), copy);
      row = {copy, vocab};
    }
    output->token = SampleToken(kernels_, row, *input.sample->config, *input.sample->counts, input.sample->draw,
                                input.sample->top_logprobs);
  }
  if (input.num_logits > 0) {
    output->logits = logits.last(static_cast<size_t>(input.num_logits) * vocab);
  }
}

}  // namespace flexquant::executor
