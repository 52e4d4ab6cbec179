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

Sequence::Sequence(std::unique_ptr<GenerationSpec> spec, std::shared_ptr<GenerationSink> sink, const Shared& shared,
                   std::shared_ptr<ActiveRequest> active)
    : spec_(std::move(spec)),
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

absl::Span<const PrefixKey> Sequence::PromptKeys(uint32_t block_tokens) const {
  if (prompt_keys_block_ != block_tokens) {
    prompt_keys_ = PrefixKeys(spec_->tenant, spec_->prefill_plan, spec_->prompt, block_tokens);
    prompt_keys_block_ = block_tokens;
  }
  const bool all = prompt_keys_.size() * block_tokens == known_tokens();
  return absl::MakeConstSpan(prompt_keys_).first(prompt_keys_.size() - (all ? 1 : 0));
}

void Sequence::Start(uint64_t executor_id, std::vector<uint32_t> prefix_blocks, uint32_t block_tokens,
                     const BackendSettings& settings, absl::Time now) {
  executor_id_ = executor_id;
  spec_->policy->SetBackend(settings);
  block_tokens_ = block_tokens;
  kv_blocks_ = std::move(prefix_blocks);
  blocks_sent_ = 0;
  cached_ = static_cast<uint32_t>(kv_blocks_.size()) * block_tokens;
  positions_sent_ = cached_;
  known_at_start_ = known_tokens();
  FQ_CHECK(cached_ < known_at_start_);
  accepted_here_ = 0;
  prompt_raised_ = false;
  requested_ = journal_.size();
  if (!started()) {
    started_ = now;
    sink_->OnStarted(spec_->policy->backend_kl());
  }
}

std::vector<uint32_t> Sequence::Leave() {
  FQ_CHECK(!ended_);
  return std::exchange(kv_blocks_, {});
}

uint32_t Sequence::MissingBlocks(uint32_t count) const {
  const uint32_t blocks = (positions_sent_ + count + block_tokens_ - 1) / block_tokens_;
  const auto present = static_cast<uint32_t>(kv_blocks_.size());
  return blocks > present ? blocks - present : 0;
}

void Sequence::AddBlocks(const std::vector<uint32_t>& blocks) {
  kv_blocks_.insert(kv_blocks_.end(), blocks.begin(), blocks.end());
}

void Sequence::NotePause(absl::Time now) {
  paused_since_ = paused() ? std::min(paused_since_, now) : absl::InfiniteFuture();
}

const PrecisionPlan& Sequence::ReplayPlan(uint32_t position) const {
  const auto prompt = static_cast<uint32_t>(spec_->prompt.size());
  // In shared mode nobody is promised the same digits, and the top precision is quicker in large chunks.
  if (position < prompt || !spec_->isolated) {
    return spec_->prefill_plan;
  }
  // An answer token is fed in the step that computes the one after it.
  return journal_.plan(position - prompt + 1);
}

uint32_t Sequence::PrefillChunk(uint32_t most) const {
  const uint32_t end = std::min(positions_sent_ + most, known_at_start_);
  // The last token of an answer is computed at the plan of the token that follows from it.
  const uint32_t last = journal_.size() == 0 ? known_at_start_ : known_at_start_ - 1;
  if (positions_sent_ >= last || end == positions_sent_) {
    return std::min<uint32_t>(end - positions_sent_, 1);
  }
  const PrecisionPlan& plan = ReplayPlan(positions_sent_);
  uint32_t position = positions_sent_ + 1;
  while (position < std::min(end, last) && ReplayPlan(position) == plan) {
    ++position;
  }
  return position - positions_sent_;
}

SequenceStep Sequence::NextStep(uint32_t count) {
  FQ_CHECK(MissingBlocks(count) == 0);
  SequenceStep step;
  step.sequence_id = executor_id_;
  step.position = positions_sent_;
  const uint32_t blocks = (positions_sent_ + count + block_tokens_ - 1) / block_tokens_;
  step.new_kv_blocks.assign(kv_blocks_.begin() + blocks_sent_,
                            kv_blocks_.begin() + std::max<int64_t>(blocks, blocks_sent_));
  return step;
}

SequenceStep Sequence::NextPrefill(uint32_t count) {
  FQ_CHECK(count >= 1 && count <= prefill_remaining());
  SequenceStep step = NextStep(count);
  const auto prompt = static_cast<uint32_t>(spec_->prompt.size());
  if (positions_sent_ == cached_) {
    step.start = SequenceStart{
        spec_->sampling, spec_->top_logprobs, prompt, {spec_->prompt.begin(), spec_->prompt.begin() + cached_}};
  }
  for (uint32_t position = positions_sent_; position < positions_sent_ + count; ++position) {
    step.token_ids.push_back(position < prompt ? spec_->prompt[position] : journal_.token(position - prompt));
  }
  step.sample = count == prefill_remaining();
  step.plan = step.sample && journal_.size() > 0 ? PlanNextToken() : ReplayPlan(positions_sent_);
  return step;
}

SequenceStep Sequence::NextDecode() {
  FQ_CHECK(can_decode());
  SequenceStep step = NextStep(1);
  step.plan = PlanNextToken();
  step.sample = true;
  return step;
}

const PrecisionPlan& Sequence::PlanNextToken() {
  if (requested_ < journal_.planned()) {
    return journal_.plan(requested_);
  }
  // The policy sees the tokens that are known at this point in any case, not those that happen to be: the plan, and
  // with it the answer, must not depend on how fast results arrive.
  while (observed_ + lookahead_ < requested_) {
    FQ_CHECK(!unobserved_.empty());
    spec_->policy->Observe(unobserved_.front());
    unobserved_.pop_front();
    ++observed_;
  }
  return spec_->policy->Next(requested_);
}

void Sequence::Sent(const SequenceStep& step) {
  const uint32_t first = positions_sent_;
  positions_sent_ += step.token_ids.empty() ? 1 : static_cast<uint32_t>(step.token_ids.size());
  blocks_sent_ += static_cast<uint32_t>(step.new_kv_blocks.size());
  prompt_raised_ = prompt_raised_ || (first < spec_->prompt.size() && !(step.plan == spec_->prefill_plan));
  if (!step.sample) {
    return;
  }
  if (requested_ < journal_.planned()) {
    journal_.ReplacePlan(requested_, step.plan);
  } else {
    // The first token comes out of the prefill, which no policy chose.
    journal_.AddPlan(step.plan, requested_ > 0 ? spec_->policy->Charge(step.plan) : std::nullopt);
  }
  ++requested_;
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
  const uint32_t index = journal_.size();
  if (index >= requested_) {
    Fail(absl::InternalError("the executor sent a token that was not asked for"));
    return;
  }
  AnswerDelta delta;
  const std::optional<double> predicted = journal_.predicted_kl(index);
  if (audit_kl.has_value() && predicted.has_value()) {
    // Measured with the executor's settings on both sides: what they cost is missing.
    audit_kl = *audit_kl + spec_->policy->backend_kl();
    tally_.AddAudit(*audit_kl);
    spec_->policy->Audited(*predicted, *audit_kl);
  }
  first_token_ = first_token_ == absl::InfinitePast() ? now : first_token_;
  last_token_ = now;
  ++timed_tokens_;
  ++accepted_here_;
  losses_ = 0;
  const PrecisionPlan& plan = journal_.plan(index);
  AnswerToken& answered = delta.tokens.emplace_back(AnswerToken{token, tally_.Add(plan, predicted), {}, audit_kl, {}});
  if (spec_->ladder != nullptr) {
    // A plan below every level is the lowest one's with less: it cannot come, and would be level 0.
    answered.level = static_cast<uint32_t>(std::max(spec_->ladder->LevelBelow(plan), 0));
  }
  bool stopped = false;
  std::string cause;
  delta.text = Append(token, &answered.text, &stopped, &cause);
  sink_->OnDelta(std::move(delta));
  if (!cause.empty()) {
    Finish(stopped, std::move(cause));
  }
}

std::string Sequence::Append(const SampledToken& token, std::string* own, bool* stopped, std::string* cause) {
  journal_.AddToken(token.id);
  unobserved_.push_back(token.signals);
  std::string text;
  *cause = StopCauseOf(token.id);
  const bool stopped_by_id = !cause->empty();
  *stopped = stopped_by_id;
  if (!stopped_by_id) {
    *own = detokenizer_.Append(token.id);
    StopStringMatcher::Output output = stop_strings_.Append(*own);
    text = std::move(output.text);
    if (output.match.has_value()) {
      *stopped = true;
      *cause = absl::StrCat("string:", *output.match);
    }
  }
  const bool exhausted = !*stopped && journal_.size() == spec_->max_tokens;
  if (exhausted) {
    *cause = spec_->limited_by_context ? "context" : "max_tokens";
  }
  if (stopped_by_id || exhausted) {
    const std::string rest = detokenizer_.Finish();
    own->append(rest);
    absl::StrAppend(&text, stop_strings_.Append(rest).text, stop_strings_.Finish());
  }
  return text;
}

void Sequence::Resume() {
  for (const ResumedToken& token : spec_->resumed) {
    // The policy is led through the same questions, so it stands where it stood.
    const bool first = requested_ == 0;
    const PrecisionPlan plan = first ? spec_->prefill_plan : PlanNextToken();
    journal_.AddPlan(plan, first ? std::nullopt : spec_->policy->Charge(plan));
    tally_.Add(plan, journal_.predicted_kl(requested_));
    ++requested_;
    bool stopped = false;
    std::string own;
    std::string cause;
    Append({token.id, token.signals, 0, {}}, &own, &stopped, &cause);  // the client has the text
    if (!cause.empty()) {
      started_ = spec_->arrival;
      first_token_ = spec_->arrival;
      sink_->OnStarted(spec_->policy->backend_kl());
      Finish(stopped, std::move(cause));
      return;
    }
  }
}

void Sequence::Finish(bool stopped, std::string cause) {
  ended_ = true;
  AnswerEnd end;
  end.stopped = stopped;
  end.stop_cause = std::move(cause);
  end.prompt_tokens = static_cast<uint32_t>(spec_->prompt.size());
  end.generated_tokens = journal_.size();
  // A round's clock is read at its start; a request may come while it lasts.
  end.queue_time = std::max(absl::ZeroDuration(), started_ - spec_->arrival);
  end.time_to_first_token = first_token_ - spec_->arrival;
  end.time_per_output_token =
      timed_tokens_ > 1 ? (last_token_ - first_token_) / (timed_tokens_ - 1) : absl::ZeroDuration();
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
