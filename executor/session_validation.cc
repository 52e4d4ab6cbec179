#include "executor/session_validation.h"

#include <algorithm>
#include <unordered_set>

#include "absl/strings/str_cat.h"

namespace flexquant::executor {
namespace {

// NaN is in no range.
absl::Status CheckValue(absl::string_view field, double value, double low, double high, bool low_allowed) {
  const bool above = low_allowed ? value >= low : value > low;
  if (above && value <= high) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("start.sampling.", field, " is ", value,
                                                 "; allowed: ", low_allowed ? "[" : "(", low, ", ", high, "]"));
}

}  // namespace

absl::StatusOr<SamplingConfig> ParseSampling(const v1::Sampling& sampling) {
  const absl::Status checks[] = {
      CheckValue("temperature", sampling.temperature(), 0, 100, true),
      CheckValue("top_p", sampling.top_p(), 0, 1, false),
      CheckValue("min_p", sampling.min_p(), 0, 1, true),
      CheckValue("repetition_penalty", sampling.repetition_penalty(), 0, 10, false),
      CheckValue("presence_penalty", sampling.presence_penalty(), -10, 10, true),
      CheckValue("frequency_penalty", sampling.frequency_penalty(), -10, 10, true),
  };
  for (const absl::Status& check : checks) {
    if (!check.ok()) {
      return check;
    }
  }
  SamplingConfig config;
  config.temperature = static_cast<float>(sampling.temperature());
  config.top_k = sampling.top_k();
  config.top_p = static_cast<float>(sampling.top_p());
  config.min_p = static_cast<float>(sampling.min_p());
  config.repetition_penalty = static_cast<float>(sampling.repetition_penalty());
  config.presence_penalty = static_cast<float>(sampling.presence_penalty());
  config.frequency_penalty = static_cast<float>(sampling.frequency_penalty());
  config.seed = sampling.seed();
  // A double near 0 may round to 0, which is not in range.
  if (config.top_p == 0 || config.repetition_penalty == 0) {
    return absl::InvalidArgumentError("start.sampling: top_p and repetition_penalty must be at least 1e-38");
  }
  return config;
}

absl::Status ValidateStep(const v1::StepRequest& step, const RunnerInfo& info) {
  const auto count = static_cast<uint32_t>(step.sequences_size());
  if (count < 1 || count > info.max_sequences) {
    return absl::InvalidArgumentError(
        absl::StrCat("step ", step.step_id(), " has ", count, " sequences; allowed: 1 to ", info.max_sequences));
  }
  std::unordered_set<uint64_t> ids;
  uint64_t tokens = 0;
  for (const v1::SequenceStep& sequence : step.sequences()) {
    if (!ids.insert(sequence.sequence_id()).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("step ", step.step_id(), " names sequence ", sequence.sequence_id(), " twice"));
    }
    if (sequence.audit() && !info.audits) {
      return absl::UnimplementedError(absl::StrCat("step ", step.step_id(), ", sequence ", sequence.sequence_id(), ": ",
                                                   info.device, " cannot audit; leave `audit` unset"));
    }
    if (sequence.audit() && (!sequence.sample() || sequence.token_ids_size() > 0)) {
      return absl::InvalidArgumentError(absl::StrCat("step ", step.step_id(), ", sequence ", sequence.sequence_id(),
                                                     ": `audit` is for decode steps that sample"));
    }
    tokens += static_cast<uint64_t>(std::max(1, sequence.token_ids_size()));
  }
  if (tokens > info.max_step_tokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("step ", step.step_id(), " has ", tokens, " tokens; allowed: 1 to ", info.max_step_tokens));
  }
  return absl::OkStatus();
}

absl::Status ValidateSequenceStep(const v1::SequenceStep& step, uint32_t num_tokens, const SequenceExtent& held,
                                  const RunnerInfo& info) {
  const std::string who = absl::StrCat("sequence ", step.sequence_id(), ": ");
  if (step.position() != held.length) {
    return absl::FailedPreconditionError(
        absl::StrCat(who, "position is ", step.position(), "; expected ", held.length));
  }
  const uint64_t length = static_cast<uint64_t>(held.length) + num_tokens;
  if (length > static_cast<uint64_t>(info.max_context)) {
    return absl::InvalidArgumentError(
        absl::StrCat(who, length, " tokens exceed the model's context of ", info.max_context));
  }
  for (const uint32_t token : step.token_ids()) {
    if (token >= info.vocab_size) {
      return absl::InvalidArgumentError(
          absl::StrCat(who, "token id is ", token, "; allowed: 0 to ", info.vocab_size - 1));
    }
  }
  for (const uint32_t block : step.new_kv_blocks()) {
    if (block >= info.kv_blocks) {
      return absl::InvalidArgumentError(
          absl::StrCat(who, "KV block is ", block, "; allowed: 0 to ", info.kv_blocks - 1));
    }
  }
  const uint64_t blocks = held.blocks + static_cast<uint64_t>(step.new_kv_blocks_size());
  const uint64_t most = (static_cast<uint64_t>(info.max_context) + info.kv_block_tokens - 1) / info.kv_block_tokens;
  const uint64_t least = (length + info.kv_block_tokens - 1) / info.kv_block_tokens;
  if (blocks < least || blocks > most) {
    return absl::InvalidArgumentError(absl::StrCat(who, "its table has ", blocks, " KV blocks; ", length,
                                                   " tokens need at least ", least, ", the context at most ", most));
  }
  if (step.sample() && length < held.prompt_tokens) {
    return absl::InvalidArgumentError(absl::StrCat(who, "cannot sample after ", length, " of ", held.prompt_tokens,
                                                   " prompt tokens; set `sample` in the last "
                                                   "chunk only"));
  }
  return absl::OkStatus();
}

absl::Status ValidateCachedTokens(const v1::SequenceStep& step, const RunnerInfo& info) {
  const v1::SequenceStart& start = step.start();
  const auto cached = static_cast<uint32_t>(start.cached_token_ids_size());
  if (cached == 0) {
    return absl::OkStatus();
  }
  const std::string who = absl::StrCat("sequence ", step.sequence_id(), ": ");
  if (cached % info.kv_block_tokens != 0 || cached > start.prompt_tokens() ||
      cached / info.kv_block_tokens > static_cast<uint32_t>(step.new_kv_blocks_size())) {
    return absl::InvalidArgumentError(absl::StrCat(
        who, "start.cached_token_ids has ", cached, " tokens; allowed: whole blocks of ", info.kv_block_tokens,
        ", at most the ", start.prompt_tokens(), " prompt tokens, in the ", step.new_kv_blocks_size(),
        " KV blocks of this step"));
  }
  for (const uint32_t token : start.cached_token_ids()) {
    if (token >= info.vocab_size) {
      return absl::InvalidArgumentError(
          absl::StrCat(who, "cached token id is ", token, "; allowed: 0 to ", info.vocab_size - 1));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<PrecisionPlan> ParsePlan(const v1::Plan& plan, const RunnerInfo& info) {
  if (plan.plan_id() >= kMaxPlans) {
    return absl::InvalidArgumentError(absl::StrCat("plan_id is ", plan.plan_id(), "; allowed: 0 to ", kMaxPlans - 1));
  }
  PrecisionPlan parsed;
  parsed.bits.assign(plan.bits().begin(), plan.bits().end());
  const absl::Status status = parsed.Validate(info.num_layer_groups, info.has_reference);
  if (!status.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("plan ", plan.plan_id(), ": ", status.message()));
  }
  return parsed;
}

}  // namespace flexquant::executor
