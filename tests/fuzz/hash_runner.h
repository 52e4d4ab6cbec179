#ifndef FLEXQUANT_TESTS_FUZZ_HASH_RUNNER_H_
#define FLEXQUANT_TESTS_FUZZ_HASH_RUNNER_H_

#include <cstdint>
#include <vector>

#include "common/check.h"
#include "executor/model_runner.h"

namespace flexquant::fuzz {

// The hash of a sequence of tokens is that of all but the last, extended by the last.
inline uint64_t ExtendHash(uint64_t hash, uint32_t token) {
  hash = (hash ^ (token + 1)) * 0x9E3779B97F4A7C15U;
  return hash ^ (hash >> 29U);
}

// The token that follows a sequence, as answer token `draw`.
inline uint32_t TokenAfter(uint64_t hash, uint64_t draw, uint32_t vocab_size) {
  return static_cast<uint32_t>(ExtendHash(hash, static_cast<uint32_t>(draw)) % vocab_size);
}

// A runner whose KV cache holds, at each position, the hash of the tokens up to there: what it samples depends on every
// token of the sequence, on the block table and on what else has been written to those blocks. Ends the process for a
// batch that a session should not have let through.
class HashRunner final : public executor::ModelRunner {
 public:
  explicit HashRunner(const executor::RunnerInfo& info)
      : info_(info), cache_(static_cast<size_t>(info.kv_blocks) * info.kv_block_tokens) {}

  const executor::RunnerInfo& info() const override { return info_; }

  absl::Status RunStep(const executor::StepBatch& batch, executor::StepOutput* output) override {
    FQ_CHECK(executor::ValidateBatch(batch, info_).ok());
    output->sequences.assign(batch.sequences.size(), executor::SequenceOutput());
    logits_.assign(static_cast<size_t>(info_.vocab_size), 0.5F);
    for (size_t i = 0; i < batch.sequences.size(); ++i) {
      Run(batch.sequences[i], &output->sequences[i]);
    }
    output->weight_bytes_read = 1000;
    return absl::OkStatus();
  }

 private:
  uint64_t& At(const executor::SequenceInput& input, int64_t position) {
    const int64_t block_tokens = info_.kv_block_tokens;
    const uint32_t block = input.block_table[static_cast<size_t>(position / block_tokens)];
    return cache_[static_cast<size_t>(block * block_tokens + position % block_tokens)];
  }

  void Run(const executor::SequenceInput& input, executor::SequenceOutput* output) {
    FQ_CHECK(input.plan->Validate(info_.num_layer_groups, info_.has_reference).ok());
    uint64_t hash = input.start == 0 ? 0 : At(input, input.start - 1);
    for (size_t i = 0; i < input.tokens.size(); ++i) {
      hash = ExtendHash(hash, input.tokens[i]);
      At(input, input.start + static_cast<int64_t>(i)) = hash;
    }
    if (input.num_logits > 0) {
      output->logits = logits_;
    }
    if (!input.sample.has_value()) {
      return;
    }
    auto& token = output->token.emplace();
    token.id = TokenAfter(hash, input.sample->draw, static_cast<uint32_t>(info_.vocab_size));
    token.stats.entropy_nats = static_cast<float>(hash % 64) / 16;
    token.stats.top1_probability = 0.5F;
    token.stats.margin = 1;
    for (uint32_t i = 0; i < input.sample->top_logprobs; ++i) {
      token.top.emplace_back(i, -1.0F);
    }
  }

  const executor::RunnerInfo info_;
  std::vector<uint64_t> cache_;
  std::vector<float> logits_;
};

}  // namespace flexquant::fuzz

#endif  // FLEXQUANT_TESTS_FUZZ_HASH_RUNNER_H_
