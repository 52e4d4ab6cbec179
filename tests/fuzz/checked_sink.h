#ifndef FLEXQUANT_TESTS_FUZZ_CHECKED_SINK_H_
#define FLEXQUANT_TESTS_FUZZ_CHECKED_SINK_H_

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "common/check.h"
#include "common/tokenizer/tokenizer.h"
#include "controller/generation.h"

namespace flexquant::fuzz {

// Ends the process unless its answer keeps to what GenerationSink promises: started once and before all else, token by
// token without holes, ended once and with nothing after it.
class CheckedSink final : public controller::GenerationSink {
 public:
  // Called with each token's index in the whole answer, `resumed` ones counted.
  using OnToken = std::function<void(uint32_t index, uint32_t id)>;
  explicit CheckedSink(uint32_t resumed = 0, OnToken on_token = nullptr)
      : num_tokens_(resumed), on_token_(std::move(on_token)) {}

  bool ended() const { return ended_; }
  bool finished() const { return finished_; }
  const absl::Status& failure() const { return failure_; }
  void set_congested(bool congested) { congested_ = congested; }

  void OnStarted(double /*backend_kl*/) override {
    FQ_CHECK(!started_ && !ended_);
    started_ = true;
  }
  void OnDelta(controller::AnswerDelta delta) override {
    FQ_CHECK(started_ && !ended_);
    FQ_CHECK(FindInvalidUtf8(delta.text) < 0);
    for (const controller::AnswerToken& token : delta.tokens) {
      FQ_CHECK(token.bits >= 3 && token.bits <= 16);
      if (on_token_) {
        on_token_(num_tokens_, token.sampled.id);
      }
      ++num_tokens_;
    }
  }
  void OnFinished(controller::AnswerEnd end) override {
    FQ_CHECK(started_ && !ended_);
    FQ_CHECK(end.generated_tokens == num_tokens_);
    FQ_CHECK(!end.stop_cause.empty());
    uint64_t counted = 0;
    for (const auto& [bits, tokens] : end.precision.histogram) {
      counted += tokens;
    }
    FQ_CHECK(counted == num_tokens_);
    ended_ = finished_ = true;
  }
  void OnFailed(absl::Status status) override {
    FQ_CHECK(!ended_ && !status.ok());
    ended_ = true;
    failure_ = std::move(status);
  }
  bool congested() const override { return congested_; }

 private:
  uint32_t num_tokens_;
  const OnToken on_token_;
  bool started_ = false;
  bool ended_ = false;
  bool finished_ = false;
  bool congested_ = false;
  absl::Status failure_;
};

}  // namespace flexquant::fuzz

#endif  // FLEXQUANT_TESTS_FUZZ_CHECKED_SINK_H_
