#ifndef FLEXQUANT_TESTS_EXECUTOR_FAKE_RUNNER_H_
#define FLEXQUANT_TESTS_EXECUTOR_FAKE_RUNNER_H_

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "executor/model_runner.h"

namespace flexquant::executor {

// What the runner was asked for one sequence.
struct RecordedInput {
  std::vector<uint32_t> tokens;
  int64_t start = 0;
  int64_t prompt_tokens = 0;
  int first_bits = 0;
  std::vector<uint32_t> blocks;
  bool sample = false;
  uint64_t draw = 0;
  SamplingConfig sampling;
  std::vector<std::pair<uint32_t, uint32_t>> counts;
};

// A model whose next token is the last one + 1: 10 tokens, 5 layer groups, context 32, 8 KV blocks of 4 tokens.
class FakeRunner : public ModelRunner {
 public:
  FakeRunner() {
    info_.device = "fake";
    info_.num_layer_groups = 5;
    info_.vocab_size = 10;
    info_.max_context = 32;
    info_.kv_blocks = 8;
    info_.kv_block_tokens = 4;
    info_.max_sequences = 3;
    info_.max_step_tokens = 12;
  }

  RunnerInfo& mutable_info() { return info_; }
  const RunnerInfo& info() const override { return info_; }

  absl::Status Health() const override {
    const std::lock_guard lock(mutex_);
    return health_;
  }
  void Fail(const absl::Status& health) {
    const std::lock_guard lock(mutex_);
    health_ = health;
  }

  absl::Status RunStep(const StepBatch& batch, StepOutput* output) override {
    {
      std::unique_lock lock(mutex_);
      ++steps_started_;
      changed_.notify_all();
      changed_.wait(lock, [&] { return !held_ || let_through_ > 0; });
      let_through_ -= held_ ? 1 : 0;
    }
    const absl::Status valid = ValidateBatch(batch, info_);
    if (!valid.ok()) {
      return valid;
    }
    if (!next_error.ok()) {
      return next_error;
    }
    inputs.clear();
    output->sequences.assign(batch.sequences.size(), SequenceOutput());
    for (size_t s = 0; s < batch.sequences.size(); ++s) {
      Record(batch.sequences[s], &output->sequences[s]);
    }
    output->weight_bytes_read = 1000;
    return absl::OkStatus();
  }

  // Steps wait until Resume.
  void Hold() {
    const std::lock_guard lock(mutex_);
    held_ = true;
  }
  void Resume() {
    const std::lock_guard lock(mutex_);
    held_ = false;
    changed_.notify_all();
  }
  // One step that is held, or the next one.
  void LetThrough() {
    const std::lock_guard lock(mutex_);
    ++let_through_;
    changed_.notify_all();
  }
  // Until so many steps have started in all.
  void WaitForSteps(uint64_t count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return steps_started_ >= count; });
  }

  std::vector<RecordedInput> inputs;  // of the last step
  absl::Status next_error;            // of every step from now on
  absl::Status sequence_error;        // of every sequence from now on

 private:
  void Record(const SequenceInput& input, SequenceOutput* output) {
    RecordedInput recorded;
    recorded.tokens.assign(input.tokens.begin(), input.tokens.end());
    recorded.start = input.start;
    recorded.prompt_tokens = input.prompt_tokens;
    recorded.first_bits = input.plan->bits[0];
    recorded.blocks.assign(input.block_table.begin(), input.block_table.end());
    recorded.sample = input.sample.has_value();
    output->status = sequence_error;
    if (input.sample.has_value()) {
      recorded.draw = input.sample->draw;
      recorded.sampling = *input.sample->config;
      recorded.counts = input.sample->counts->entries();
      SampledToken token;
      token.id = (input.tokens.back() + 1) % static_cast<uint32_t>(info_.vocab_size);
      token.stats.entropy_nats = 0.5F;
      token.stats.top1_probability = 0.75F;
      token.stats.margin = 2;
      token.logprob = -0.25F;
      for (uint32_t i = 0; i < input.sample->top_logprobs; ++i) {
        token.top.emplace_back(i, -static_cast<float>(i));
      }
      if (sequence_error.ok()) {
        output->token = token;
      }
    }
    if (input.num_logits > 0) {
      logits_.assign(static_cast<size_t>(info_.vocab_size * input.num_logits), 1.5F);
      output->logits = logits_;
    }
    inputs.push_back(recorded);
  }

  RunnerInfo info_;
  std::vector<float> logits_;
  mutable std::mutex mutex_;
  absl::Status health_;
  std::condition_variable changed_;
  bool held_ = false;
  int let_through_ = 0;
  uint64_t steps_started_ = 0;
};

}  // namespace flexquant::executor

#endif  // FLEXQUANT_TESTS_EXECUTOR_FAKE_RUNNER_H_
