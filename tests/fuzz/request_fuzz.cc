// Messages of the public protocol: a byte of choices, then a serialised request. A valid GenerateRequest goes on to a
// sequence that runs for some steps.

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "common/check.h"
#include "controller/active_requests.h"
#include "controller/batch.h"
#include "controller/request_queue.h"
#include "controller/request_validation.h"
#include "controller/sequence.h"
#include "tests/controller/calibrated_model.h"
#include "tests/fuzz/checked_sink.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/fuzz_target.h"
#include "tests/fuzz/parse_message.h"

namespace flexquant::fuzz {
namespace {

using controller::ModelPackage;

constexpr int kSteps = 6;

const ModelPackage& ModelOf(uint32_t choice) {
  static const auto* const kPlain = new ModelPackage(controller::TestModel());
  static const auto* const kReference = new ModelPackage(controller::TestModel(/*has_reference=*/true,
                                                                               /*adds_bos=*/false));
  static const auto* const kCalibrated = new ModelPackage(controller::CalibratedTestModel(1));
  return choice == 0 ? *kPlain : choice == 1 ? *kReference : *kCalibrated;
}

// What the server says is in force is itself a request it takes, with the same outcome.
void CheckEcho(const v1::GenerateRequest& request, const controller::ValidatedRequest& validated,
               const ModelPackage& model, uint64_t kv_tokens) {
  v1::GenerateRequest echoed = request;
  *echoed.mutable_sampling() = validated.effective.sampling();
  *echoed.mutable_stop() = validated.effective.stop();
  *echoed.mutable_precision() = validated.effective.precision();
  echoed.set_batch_mode(validated.effective.batch_mode());
  const auto again = controller::ValidateGenerate(echoed, model, kv_tokens);
  FQ_CHECK(again.ok());
  FQ_CHECK(again->effective.SerializeAsString() == validated.effective.SerializeAsString());
  FQ_CHECK(again->spec->prompt == validated.spec->prompt);
}

void RunSteps(controller::Batch& batch, controller::RequestQueue& queue, const ModelPackage& model) {
  const absl::Time now = absl::UnixEpoch();
  for (int i = 0; i < kSteps; ++i) {
    batch.Admit(queue, now);
    const auto step = batch.Compose(now);
    FQ_CHECK(batch.TakePreempted().empty());
    for (const controller::SequenceStep& part : step) {
      FQ_CHECK(part.plan.Validate(model.layer_groups->count(), model.policies.has_reference).ok());
      if (!part.sample) {
        continue;
      }
      controller::Sequence* sequence = batch.Find(part.sequence_id);
      sequence->Accept({static_cast<uint32_t>('a' + i), {0.5 * i, 0.5, 1}, -1, {}}, std::nullopt, now);
      batch.Accepted(*sequence);
    }
    batch.RemoveEnded();
  }
}

void RunSequence(std::unique_ptr<controller::GenerationSpec> spec, const ModelPackage& model) {
  const auto active = std::make_shared<controller::ActiveRequests>();
  controller::RequestQueue queue({});
  controller::Batch batch(64, 4, {1, 64, 16, 0.5});
  auto request = active->Add(1, spec->tenant, spec->request_id);
  const auto sink = std::make_shared<CheckedSink>(static_cast<uint32_t>(spec->resumed.size()));
  auto sequence = std::make_unique<controller::Sequence>(
      std::move(spec), sink, controller::Sequence::Shared{*model.tokenizer, *model.layer_groups, 1},
      std::move(request));
  sequence->Resume();
  if (!sequence->ended()) {
    FQ_CHECK(queue.Push(sequence).ok());
    RunSteps(batch, queue, model);
    batch.TakeAll();
    FQ_CHECK(batch.kv().num_available() == batch.kv().num_blocks());
  }
  queue.FailAll([](const controller::Sequence&) { return absl::CancelledError("the end"); });
  sequence.reset();
  FQ_CHECK(sink->ended());
}

void Generate(const std::string& bytes, const ModelPackage& model, uint64_t kv_tokens) {
  v1::GenerateRequest request;
  if (!ParseMessage(bytes, &request)) {
    return;
  }
  auto validated = controller::ValidateGenerate(request, model, kv_tokens);
  if (!validated.ok()) {
    FQ_CHECK(!absl::IsInternal(validated.status()) && !absl::IsUnknown(validated.status()));
    return;
  }
  const controller::GenerationSpec& spec = *validated->spec;
  FQ_CHECK(!spec.prompt.empty() && spec.max_tokens >= 1);
  FQ_CHECK(spec.prompt.size() + spec.max_tokens <= static_cast<uint64_t>(model.config.max_context));
  FQ_CHECK(spec.resumed.size() <= spec.max_tokens);
  FQ_CHECK(spec.prefill_plan.Validate(model.layer_groups->count(), model.policies.has_reference).ok());
  CheckEcho(request, *validated, model, kv_tokens);
  RunSequence(std::move(validated->spec), model);
}

FQ_FUZZ_TARGET(request, input) {
  FuzzInput bytes(input);
  const uint8_t choices = bytes.Byte();
  const ModelPackage& model = ModelOf(choices % 3U);
  const uint64_t kv_tokens = (choices & 0x20U) != 0 ? 40 : 0;
  const std::string message = bytes.Rest();
  v1::TokenizeRequest tokenize;
  v1::DetokenizeRequest detokenize;
  v1::AbortRequest abort;
  switch (choices >> 6U) {
    case 0:
      return Generate(message, model, kv_tokens);
    case 1:
      if (ParseMessage(message, &tokenize)) {
        (void)controller::Tokenize(tokenize, model).ok();
      }
      return;
    case 2:
      if (ParseMessage(message, &detokenize)) {
        (void)controller::Detokenize(detokenize, model).ok();
      }
      return;
    default:
      if (ParseMessage(message, &abort)) {
        (void)controller::ValidateAbort(abort).ok();
      }
  }
}

}  // namespace
}  // namespace flexquant::fuzz
