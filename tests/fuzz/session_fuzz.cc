// A controller that sends an executor anything: the input chooses a sequence of Execute messages, mostly of small
// numbers so that many are legal, now and then of any at all; a message may also be any bytes.

#include <cstdint>
#include <string>

#include "absl/time/time.h"
#include "common/check.h"
#include "executor/engine.h"
#include "executor/session.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/fuzz_target.h"
#include "tests/fuzz/hash_runner.h"
#include "tests/fuzz/parse_message.h"

namespace flexquant::fuzz {
namespace {

namespace v1 = executor::v1;

constexpr int kMaxMessages = 64;
constexpr int kNumGroups = 5;

executor::RunnerInfo SmallInfo() {
  executor::RunnerInfo info;
  info.device = "fuzz";
  info.num_layer_groups = kNumGroups;
  info.has_reference = true;
  info.vocab_size = 10;
  info.max_context = 32;
  info.kv_blocks = 8;
  info.kv_block_tokens = 4;
  info.max_sequences = 3;
  info.max_step_tokens = 12;
  info.audits = true;
  return info;
}

void FillPlans(FuzzInput& bytes, v1::PlanTable* table) {
  for (uint32_t i = bytes.Small(0, 3); i > 0; --i) {
    v1::Plan* plan = table->add_plans();
    plan->set_plan_id(static_cast<uint32_t>(bytes.Number(3)));
    constexpr char kBits[] = {3, 4, 5, 6, 8, 16, 7, 0};
    const uint8_t choice = bytes.Byte();
    plan->set_bits(choice == 0xFF ? bytes.Bytes(bytes.Small(0, 8)) : std::string(kNumGroups, kBits[choice % 8U]));
  }
}

void FillStart(FuzzInput& bytes, v1::SequenceStart* start) {
  start->set_prompt_tokens(static_cast<uint32_t>(bytes.Number(12)));
  start->set_top_logprobs(static_cast<uint32_t>(bytes.Number(4)));
  const uint8_t choices = bytes.Byte();
  start->set_full_logits((choices & 1U) != 0);
  v1::Sampling* sampling = start->mutable_sampling();
  sampling->set_top_p(1);
  sampling->set_repetition_penalty(1);
  if ((choices & 2U) != 0) {
    sampling->set_temperature(bytes.Real());
    sampling->set_top_p(bytes.Real());
    sampling->set_min_p(bytes.Real());
    sampling->set_repetition_penalty(bytes.Real());
    sampling->set_presence_penalty(bytes.Real());
    sampling->set_frequency_penalty(bytes.Real());
    sampling->set_top_k(static_cast<uint32_t>(bytes.Number(4)));
  }
  if ((choices & 4U) != 0) {
    for (uint32_t i = bytes.Small(0, 9); i > 0; --i) {
      start->add_cached_token_ids(static_cast<uint32_t>(bytes.Number(9)));
    }
  }
}

// `lengths` guesses at what the session has, so that positions are often right.
void FillStep(FuzzInput& bytes, uint64_t next_step, uint32_t (&lengths)[4], v1::StepRequest* step) {
  const uint8_t choices = bytes.Byte();
  step->set_step_id((choices & 0x80U) != 0 ? bytes.Number(4) : next_step);
  for (uint32_t i = choices % 5U; i > 0; --i) {
    v1::SequenceStep* part = step->add_sequences();
    const uint64_t id = bytes.Number(3);
    uint32_t& length = lengths[id % 4];
    part->set_sequence_id(id);
    part->set_plan_id(static_cast<uint32_t>(bytes.Number(1)));
    const uint8_t kind = bytes.Byte();
    if ((kind & 1U) != 0) {
      FillStart(bytes, part->mutable_start());
      length = static_cast<uint32_t>(part->start().cached_token_ids_size());
    }
    for (uint32_t tokens = (kind & 2U) != 0 ? bytes.Small(0, 6) : 0; tokens > 0; --tokens) {
      part->add_token_ids(static_cast<uint32_t>(bytes.Number(9)));
    }
    for (uint32_t blocks = (kind & 4U) != 0 ? bytes.Small(0, 3) : 0; blocks > 0; --blocks) {
      part->add_new_kv_blocks(static_cast<uint32_t>(bytes.Number(7)));
    }
    part->set_position((kind & 8U) != 0 ? static_cast<uint32_t>(bytes.Number(8)) : length);
    part->set_sample((kind & 16U) != 0);
    part->set_audit((kind & 32U) != 0);
    length += part->token_ids().empty() ? 1 : static_cast<uint32_t>(part->token_ids_size());
  }
}

void CheckResult(const v1::StepRequest& step, const v1::StepResult& result) {
  FQ_CHECK(result.step_id() == step.step_id() && result.sequences_size() == step.sequences_size());
  for (int i = 0; i < step.sequences_size(); ++i) {
    const v1::SequenceResult& part = result.sequences(i);
    FQ_CHECK(part.sequence_id() == step.sequences(i).sequence_id());
    FQ_CHECK(part.has_token() == (part.code() == 0 && step.sequences(i).sample()));
    FQ_CHECK(part.has_audit_kl() == (part.code() == 0 && step.sequences(i).audit()));
  }
}

FQ_FUZZ_TARGET(session, input) {
  FuzzInput bytes(input);
  HashRunner runner(SmallInfo());
  executor::Engine engine(runner);
  executor::Session session(engine);
  v1::ExecuteResponse response;
  uint64_t next_step = 1;
  uint32_t lengths[4] = {};
  for (int i = 0; i < kMaxMessages && !bytes.empty(); ++i) {
    v1::ExecuteRequest request;
    switch (const uint8_t kind = bytes.Byte(); kind % 8U) {
      case 0:
        request.mutable_open()->set_expected_instance_id(bytes.Flag() ? bytes.Bytes(bytes.Byte()) : "");
        FillPlans(bytes, request.mutable_open()->mutable_plans());
        break;
      case 1:
        FillPlans(bytes, request.mutable_plans());
        break;
      case 2:
        for (uint32_t n = bytes.Small(0, 3); n > 0; --n) {
          request.mutable_release()->add_sequence_ids(bytes.Number(3));
        }
        break;
      case 3:
        if (kind >= 0xF8) {
          engine.Drain();
        } else if (!ParseMessage(bytes.Bytes(bytes.Byte()), &request)) {
          continue;
        }
        break;
      default:
        FillStep(bytes, next_step, lengths, request.mutable_step());
    }
    const absl::Status status = session.Handle(request, absl::UnixEpoch(), &response);
    if (!status.ok()) {
      return;
    }
    FQ_CHECK(session.num_sequences() <= SmallInfo().kv_blocks);
    FQ_CHECK(response.has_result() == request.has_step());
    if (request.has_step()) {
      CheckResult(request.step(), response.result());
      ++next_step;
    }
  }
}

}  // namespace
}  // namespace flexquant::fuzz
