#include "controller/sequence.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "controller/mix_bits.h"

namespace flexquant::controller {
namespace {

bool Contains(const std::vector<uint32_t>& ids, uint32_t id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

}  // namespace

Sequence::Sequence(uint64_t id, std::unique_ptr<GenerationSpec> spec, std::shared_ptr<GenerationSink> sink,
                   const Shared& shared, std::shared_ptr<void> active)
    : id_(id),
      spec_(std::move(spec)),
      sink_(std::move(sink)),
      lookahead_(shared.lookahead),
      active_(std::move(active)),
      detokenizer_(shared.tokenizer),
      stop_strings_(spec_->stop_strings),
      tally_(shared.groups) {
  FQ_CHECK(!spec_->prompt.empty() && spec_->max_tokens >= 1);
}

Sequence::~Sequence() {
  if (!ended_) {
    Fail(absl::AbortedError("the request was dropped"));
  }
}

void Sequence::Start(std::vector<uint32_t> kv_blocks, absl::Time now) {
  kv_blocks_ = std::move(kv_blocks);
  started_ = now;
  sink_->OnStarted();
}

uint32_t Sequence::prefill_remaining() const {
  const auto prompt = static_cast<uint32_t>(spec_->prompt.size());
  return prompt > positions_sent_ ? prompt - positions_sent_ : 0;
}

SequenceStep Sequence::NextStep(uint32_t count, uint32_t block_tokens) {
  SequenceStep step;
  step.sequence_id = id_;
  step.position = positions_sent_;
  const uint32_t blocks = (positions_sent_ + count + block_tokens - 1) / block_tokens;
  FQ_CHECK(blocks <= kv_blocks_.size());
  step.new_kv_blocks.assign(kv_blocks_.begin() + blocks_sent_,
                            kv_blocks_.begin() + std::max<int64_t>(blocks, blocks_sent_));
  return step;
}

SequenceStep Sequence::NextPrefill(uint32_t count, uint32_t block_tokens) {
  FQ_CHECK(count >= 1 && count <= prefill_remaining());
  SequenceStep step = NextStep(count, block_tokens);
  if (positions_sent_ == 0) {
    step.start = SequenceStart{spec_->sampling, spec_->top_logprobs, static_cast<uint32_t>(spec_->prompt.size())};
  }
  step.plan = spec_->prefill_plan;
  step.token_ids.assign(spec_->prompt.begin() + positions_sent_, spec_->prompt.begin() + positions_sent_ + count);
  step.sample = count == prefill_remaining();
  return step;
}

SequenceStep Sequence::NextDecode(uint32_t block_tokens) {
  FQ_CHECK(can_decode());
  SequenceStep step = NextStep(1, block_tokens);
  // The policy sees the tokens that are known at this point in any case, not those that happen to be: the plan, and
  // with it the answer, must not depend on how fast results arrive.
  while (observed_ + lookahead_ < requested_) {
    FQ_CHECK(!unobserved_.empty());
    spec_->policy->Observe(unobserved_.front());
    unobserved_.pop_front();
    ++observed_;
  }
  step.plan = spec_->policy->Next(requested_);
  step.sample = true;
  return step;
}

void Sequence::Sent(const SequenceStep& step) {
  positions_sent_ += step.token_ids.empty() ? 1 : static_cast<uint32_t>(step.token_ids.size());
  blocks_sent_ += static_cast<uint32_t>(step.new_kv_blocks.size());
  if (step.sample) {
    ++requested_;
    // The first token comes out of the prefill, which no policy chose.
    const bool chosen = step.token_ids.empty();
    plans_in_use_.push_back({step.plan, chosen ? spec_->policy->Charge(step.plan) : std::nullopt});
  }
}

bool Sequence::DrawsAudit(double rate) const {
  constexpr double kDraws = 0x1p64;
  return rate > 0 && demand() != nullptr &&
         static_cast<double>(MixBits(MixBits(spec_->sampling.seed) ^ requested_)) < rate * kDraws;
}

std::string Sequence::StopCauseOf(uint32_t id) const {
  if (Contains(spec_->eos_token_ids, id)) {
    return "eos";
  }
  return Contains(spec_->stop_token_ids, id) ? absl::StrCat("token:", id) : "";
}

void Sequence::Accept(const SampledToken& token, std::optional<double> audit_kl, absl::Time now) {
  FQ_CHECK(!ended_);
  if (plans_in_use_.empty()) {
    Fail(absl::InternalError("the executor sent a token that was not asked for"));
    return;
  }
  AnswerDelta delta;
  if (const auto predicted = plans_in_use_.front().predicted_kl; audit_kl.has_value() && predicted.has_value()) {
    tally_.AddAudit(*audit_kl);
    spec_->policy->Audited(*predicted, *audit_kl);
  }
  delta.tokens.push_back({token, tally_.Add(plans_in_use_.front().plan, plans_in_use_.front().predicted_kl)});
  plans_in_use_.pop_front();
  first_token_ = accepted_ == 0 ? now : first_token_;
  last_token_ = now;
  ++accepted_;
  unobserved_.push_back(token.signals);

  std::string cause = StopCauseOf(token.id);
  const bool stopped_by_id = !cause.empty();
  bool stopped_by_string = false;
  if (!stopped_by_id) {
    StopStringMatcher::Output output = stop_strings_.Append(detokenizer_.Append(token.id));
    delta.text = std::move(output.text);
    if (output.match.has_value()) {
      stopped_by_string = true;
      cause = absl::StrCat("string:", *output.match);
    }
  }
  const bool exhausted = !stopped_by_id && !stopped_by_string && accepted_ == spec_->max_tokens;
  if (stopped_by_id || exhausted) {
    absl::StrAppend(&delta.text, stop_strings_.Append(detokenizer_.Finish()).text, stop_strings_.Finish());
  }
  sink_->OnDelta(std::move(delta));
  if (stopped_by_id || stopped_by_string) {
    Finish(true, std::move(cause));
  } else if (exhausted) {
    Finish(false, spec_->limited_by_context ? "context" : "max_tokens");
  }
}

void Sequence::Finish(bool stopped, std::string cause) {
  ended_ = true;
  AnswerEnd end;
  end.stopped = stopped;
  end.stop_cause = std::move(cause);
  end.prompt_tokens = static_cast<uint32_t>(spec_->prompt.size());
  end.generated_tokens = accepted_;
  end.queue_time = started_ - spec_->arrival;
  end.time_to_first_token = first_token_ - spec_->arrival;
  end.time_per_output_token = accepted_ > 1 ? (last_token_ - first_token_) / (accepted_ - 1) : absl::ZeroDuration();
  end.precision = tally_.Report();
  end.precision.policy = std::string(spec_->policy->name());
  end.precision.calibrated = spec_->calibrated;
  end.precision.target = spec_->target;
  sink_->OnFinished(std::move(end));
}

void Sequence::Fail(absl::Status status) {
  FQ_CHECK(!ended_ && !status.ok());
  ended_ = true;
  sink_->OnFailed(std::move(status));
}

}  // namespace flexquant::controller
