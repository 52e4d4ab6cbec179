#include "executor/model_runner.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace flexquant::executor {
namespace {

absl::Status ValidateSequence(const SequenceInput& sequence, const RunnerInfo& info) {
  const auto length = static_cast<int64_t>(sequence.tokens.size());
  if (length == 0) {
    return absl::InvalidArgumentError("a sequence has no tokens in this step; give at least one");
  }
  for (const uint32_t token : sequence.tokens) {
    if (token >= info.vocab_size) {
      return absl::InvalidArgumentError(
          absl::StrCat("token id ", token, " is out of range; allowed: 0 to ", info.vocab_size - 1));
    }
  }
  if (sequence.start < 0 || sequence.start + length > info.max_context) {
    return absl::InvalidArgumentError(absl::StrCat("positions ", sequence.start, " to ", sequence.start + length - 1,
                                                   " exceed the model's context of ", info.max_context, " tokens"));
  }
  if (sequence.prompt_tokens < 0 || sequence.prompt_tokens > length) {
    return absl::InvalidArgumentError(
        absl::StrCat(sequence.prompt_tokens, " of the tokens are a prompt's; allowed: 0 to ", length));
  }
  if (sequence.plan == nullptr) {
    return absl::InvalidArgumentError("a sequence has no plan");
  }
  FQ_RETURN_IF_ERROR(sequence.plan->Validate(info.num_layer_groups, info.has_reference));
  const auto covered = static_cast<int64_t>(sequence.block_table.size()) * info.kv_block_tokens;
  if (covered < sequence.start + length) {
    return absl::InvalidArgumentError(absl::StrCat("the block table covers ", covered, " positions; this step needs ",
                                                   sequence.start + length, ": add KV blocks"));
  }
  for (const uint32_t block : sequence.block_table) {
    if (block >= info.kv_blocks) {
      return absl::InvalidArgumentError(
          absl::StrCat("KV block ", block, " is out of range; allowed: 0 to ", info.kv_blocks - 1));
    }
  }
  if (sequence.num_logits < 0 || sequence.num_logits > length) {
    return absl::InvalidArgumentError(
        absl::StrCat("logits of ", sequence.num_logits, " positions asked for; allowed: 0 to ", length));
  }
  if (!sequence.score_targets.empty() && sequence.score_targets.size() != sequence.tokens.size()) {
    return absl::InvalidArgumentError(absl::StrCat(
        sequence.score_targets.size(), " score targets; allowed: none or one for each of the ", length, " tokens"));
  }
  for (const uint32_t target : sequence.score_targets) {
    if (target >= info.vocab_size) {
      return absl::InvalidArgumentError(
          absl::StrCat("score target ", target, " is out of range; allowed: 0 to ", info.vocab_size - 1));
    }
  }
  return absl::OkStatus();
}

}  // namespace

int64_t SequenceInput::NumHeadRows() const {
  if (!score_targets.empty()) {
    return static_cast<int64_t>(tokens.size());
  }
  return std::max<int64_t>(num_logits, sample.has_value() ? 1 : 0);
}

absl::Status LogitsNotFiniteError() {
  return absl::InternalError(
      "the logits are not finite: the model's weights or this plan's precision overflow its activations");
}

absl::Status ValidateBatch(const StepBatch& batch, const RunnerInfo& info) {
  if (batch.sequences.empty() || batch.sequences.size() > info.max_sequences) {
    return absl::InvalidArgumentError(
        absl::StrCat("a step has ", batch.sequences.size(), " sequences; allowed: 1 to ", info.max_sequences));
  }
  uint64_t tokens = 0;
  for (const SequenceInput& sequence : batch.sequences) {
    tokens += sequence.tokens.size();
  }
  if (tokens > info.max_step_tokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("a step has ", tokens, " tokens; allowed: 1 to ", info.max_step_tokens));
  }
  for (const SequenceInput& sequence : batch.sequences) {
    FQ_RETURN_IF_ERROR(ValidateSequence(sequence, info));
  }
  return absl::OkStatus();
}

}  // namespace flexquant::executor
