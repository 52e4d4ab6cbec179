#include "tests/fuzz/scheduled_world.h"

#include <algorithm>
#include <limits>
#include <set>
#include <string>
#include <utility>

#include "controller/policy/policy_factory.h"
#include "controller/step_proto.h"
#include "tests/controller/calibrated_model.h"
#include "tests/fuzz/parse_message.h"

namespace flexquant::fuzz {
namespace {

using controller::kEos;
using controller::kTestVocab;
using controller::Sequence;

constexpr uint32_t kMaxRequests = 12;
constexpr int kMaxLosses = 3;
constexpr absl::Duration kSlowReaderTimeout = absl::Seconds(30);
constexpr absl::Duration kStepTimeout = absl::Seconds(60);
// Far more rounds than the requests have tokens, even if each is computed several times.
constexpr int kRoundsToFinish = 3000;

controller::ModelPackage& Model(bool calibrated) {
  static auto* const kPlain = new controller::ModelPackage(controller::TestModel());
  static auto* const kCalibrated = new controller::ModelPackage(controller::CalibratedTestModel(1));
  return calibrated ? *kCalibrated : *kPlain;
}

std::unique_ptr<controller::RequestQueue> MakeQueue(FuzzInput& bytes) {
  controller::QueueOptions options;
  options.max_requests = bytes.Small(1, 8);
  options.max_tokens = bytes.Small(1, 200);
  return std::make_unique<controller::RequestQueue>(options);
}

}  // namespace

struct ScheduledWorld::Stream {
  Stream(const executor::RunnerInfo& info, const controller::BatchLimits& limits)
      : runner(info), batch(info.kv_blocks, info.kv_block_tokens, limits) {}

  // An honest controller is never told that it breaks the protocol.
  void Send(const executor::v1::ExecuteRequest& request) {
    executor::v1::ExecuteResponse response;
    const absl::Status status = session.Handle(request, absl::UnixEpoch(), &response);
    FQ_CHECK(status.ok());
    if (response.has_result()) {
      arriving.push_back(std::move(*response.mutable_result()));
    }
  }

  void Release(const std::vector<uint64_t>& ids) {
    if (ids.empty()) {
      return;
    }
    executor::v1::ExecuteRequest request;
    request.mutable_release()->mutable_sequence_ids()->Add(ids.begin(), ids.end());
    Send(request);
  }

  HashRunner runner;
  executor::Engine engine{runner};
  executor::Session session{engine};
  std::deque<executor::v1::StepResult> arriving;

  controller::Batch batch;
  controller::StepsInFlight in_flight;
  controller::PlanIds plan_ids{64};
  uint64_t last_step_id = 0;
  bool draining = false;  // the worker knows of it
};

ScheduledWorld::ScheduledWorld(FuzzInput& bytes)
    : model_(Model(bytes.Flag())),
      limits_(Limits(bytes)),
      lookahead_(bytes.Small(0, 1)),
      now_(absl::FromUnixSeconds(1'000)),
      active_(std::make_shared<controller::ActiveRequests>()),
      queue_(MakeQueue(bytes)) {
  if (model_.policies.correction != nullptr) {
    model_.policies.correction = std::make_shared<controller::KlCorrection>();
  }
  info_.device = "fuzz";
  info_.num_layer_groups = model_.layer_groups->count();
  info_.vocab_size = kTestVocab;
  info_.max_context = model_.config.max_context;
  info_.kv_blocks = bytes.Small(1, 24);
  info_.kv_block_tokens = bytes.Small(1, 5);
  info_.max_sequences = limits_.max_sequences;
  info_.max_step_tokens = limits_.max_step_tokens;
  info_.audits = limits_.audit_rate > 0;
  streams_.push_back(Open());
  streams_.push_back(Open());
}

ScheduledWorld::~ScheduledWorld() = default;

controller::BatchLimits ScheduledWorld::Limits(FuzzInput& bytes) const {
  return {bytes.Small(1, 5), bytes.Small(1, 16), bytes.Small(1, 8), bytes.Small(0, 2) / 2.0};
}

std::unique_ptr<ScheduledWorld::Stream> ScheduledWorld::Open() const {
  auto stream = std::make_unique<Stream>(info_, limits_);
  executor::v1::ExecuteRequest open;
  open.mutable_open()->set_expected_instance_id(stream->engine.instance_id());
  stream->Send(open);
  return stream;
}

std::unique_ptr<controller::GenerationSpec> ScheduledWorld::MakeSpec(FuzzInput& bytes) {
  auto spec = std::make_unique<controller::GenerationSpec>();
  const uint8_t choices = bytes.Byte();
  spec->request_id = std::string(1, static_cast<char>('a' + bytes.Small(0, 12)));
  spec->tenant = (choices & 1U) != 0 ? "" : std::string(1, static_cast<char>('a' + (choices >> 1U) % 2U));
  spec->isolated = (choices & 4U) != 0;
  spec->priority = static_cast<int>(bytes.Small(0, 4)) - 2;
  // Prompts that begin alike.
  const uint32_t length = bytes.Small(1, 20);
  for (uint32_t i = 0; i < length; ++i) {
    spec->prompt.push_back(i);
  }
  spec->prompt[bytes.Byte() % length] = 99;
  spec->max_tokens = bytes.Small(1, 12);
  spec->sampling.seed = bytes.Byte();
  if ((choices & 8U) != 0) {
    spec->eos_token_ids = {kEos};
    spec->stop_token_ids = {7};
    spec->stop_strings = {"a", "bc"};
  }
  if ((choices & 16U) != 0) {
    spec->deadline = now_ + absl::Seconds(bytes.Byte());
  }
  v1::PrecisionPolicy policy;
  switch (bytes.Small(0, 4)) {
    case 0:
      policy.set_fixed_bits(bytes.Flag() ? 3 : 5);
      break;
    case 1:
      policy.mutable_random()->set_seed(bytes.Byte());
      break;
    case 2:
      policy.set_target_mean_bits(bytes.Small(3, 8));
      break;
    default:
      break;
  }
  auto resolved = controller::MakePolicy(policy, model_.policies, spec->sampling.seed);
  if (!resolved.ok()) {
    return nullptr;
  }
  spec->policy = std::move(resolved->policy);
  spec->prefill_plan = std::move(resolved->prefill_plan);
  spec->arrival = now_;
  return spec;
}

CheckedSink::OnToken ScheduledWorld::Expect(const controller::GenerationSpec& spec) {
  uint64_t hash = 0;
  for (const uint32_t token : spec.prompt) {
    hash = ExtendHash(hash, token);
  }
  return [this, hash](uint32_t index, uint32_t id) mutable {
    FQ_CHECK(lied_ || id == TokenAfter(hash, index, kTestVocab));
    hash = ExtendHash(hash, id);
  };
}

void ScheduledWorld::Submit(FuzzInput& bytes) {
  std::unique_ptr<controller::GenerationSpec> spec = MakeSpec(bytes);
  const uint32_t resumed = bytes.Small(0, 6) / 4;
  if (spec == nullptr || requests_.size() >= kMaxRequests ||
      spec->prompt.size() + spec->max_tokens - 1 > uint64_t{info_.kv_blocks} * info_.kv_block_tokens) {
    return;
  }
  CheckedSink::OnToken expect = Expect(*spec);
  uint64_t hash = 0;
  for (const uint32_t token : spec->prompt) {
    hash = ExtendHash(hash, token);
  }
  for (uint32_t i = 0; i < std::min(resumed, spec->max_tokens - 1); ++i) {
    const uint32_t id = TokenAfter(hash, i, kTestVocab);
    hash = ExtendHash(hash, id);
    expect(i, id);
    spec->resumed.push_back({id, {1, 0.5, 1}});
  }
  const auto sink = std::make_shared<CheckedSink>(static_cast<uint32_t>(spec->resumed.size()), std::move(expect));
  const auto active = active_->Add(++last_id_, spec->tenant, spec->request_id);
  requests_.push_back({active, sink});
  auto sequence = std::make_unique<Sequence>(
      std::move(spec), sink, Sequence::Shared{*model_.tokenizer, *model_.layer_groups, lookahead_}, active);
  sequence->Resume();
  if (!sequence->ended() && !queue_->Push(sequence).ok()) {
    sequence->Discard();
    requests_.pop_back();
    return;
  }
  const std::shared_ptr<controller::ActiveRequest> superseded = active_->TakeName(*active);
  if (superseded != nullptr && superseded->End(controller::EndCause::kSuperseded)) {
    queue_->Cancel(superseded->id(), controller::StatusOf(controller::EndCause::kSuperseded));
  }
}

void ScheduledWorld::Cancel(uint32_t request) {
  if (requests_.empty()) {
    return;
  }
  const auto& active = requests_[request % requests_.size()].active;
  if (active->End(controller::EndCause::kCancelled)) {
    queue_->Cancel(active->id(), controller::StatusOf(controller::EndCause::kCancelled));
  }
}

void ScheduledWorld::SetCongested(uint32_t request, bool congested) {
  if (!requests_.empty()) {
    requests_[request % requests_.size()].sink->set_congested(congested);
  }
}

void ScheduledWorld::ReturnOrFail(std::unique_ptr<Sequence> sequence) {
  if (sequence->losses() < kMaxLosses) {
    queue_->Return(std::move(sequence));
  } else {
    sequence->Fail(absl::AbortedError("lost too often"));
  }
}

void ScheduledWorld::Lose(uint32_t executor) {
  std::unique_ptr<Stream>& stream = streams_[executor];
  for (std::unique_ptr<Sequence>& sequence : stream->batch.TakeAll()) {
    sequence->CountLoss();
    ReturnOrFail(std::move(sequence));
  }
  FQ_CHECK(stream->batch.running().empty());
  stream = Open();
}

void ScheduledWorld::Drain(uint32_t executor) { streams_[executor]->engine.Drain(); }

void ScheduledWorld::Falsify(uint32_t executor, FuzzInput& bytes) {
  std::deque<executor::v1::StepResult>& arriving = streams_[executor]->arriving;
  const uint8_t choice = bytes.Byte();
  if (arriving.empty() || choice % 16 == 15) {
    executor::v1::StepResult& made = arriving.emplace_back();
    if (!ParseMessage(bytes.Bytes(bytes.Byte()), &made)) {
      arriving.pop_back();
      return;
    }
  }
  lied_ = true;
  executor::v1::StepResult& result = arriving.front();
  auto* part = result.sequences().empty() ? result.add_sequences()
                                          : result.mutable_sequences(bytes.Byte() % result.sequences_size());
  switch (choice % 16) {
    case 0:
      result.set_step_id(bytes.Number(8));
      break;
    case 1:
      part->set_sequence_id(bytes.Number(8));
      break;
    case 2:
      part->set_code(static_cast<int32_t>(bytes.Number(20)));
      break;
    case 3:
      part->clear_token();
      break;
    case 4:
      part->mutable_token()->set_id(static_cast<uint32_t>(bytes.Number(255)));
      break;
    case 5:
      part->set_audit_kl(bytes.Real());
      break;
    case 6:
      part->mutable_token()->set_entropy_nats(static_cast<float>(bytes.Byte()) * (bytes.Flag() ? 1e36F : -1e3F));
      part->mutable_token()->set_margin(-1e30F);
      break;
    case 7:
      result.set_queue_ns(bytes.Word());
      result.set_compute_ns(bytes.Word());
      result.set_weight_bytes_read(bytes.Word());
      break;
    case 8:
      part->mutable_token()->set_logprob(std::numeric_limits<float>::quiet_NaN());
      break;
    case 9:
      *result.add_sequences() = executor::v1::SequenceResult(*part);
      break;
    case 10:
      arriving.push_back(executor::v1::StepResult(result));
      break;
    case 11:
      std::reverse(arriving.begin(), arriving.end());
      break;
    case 12:
      part->mutable_token()->add_top_ids(static_cast<uint32_t>(bytes.Number(255)));
      part->mutable_token()->add_top_logprobs(static_cast<float>(bytes.Byte()));
      break;
    case 13:
      arriving.pop_front();
      break;
    default:
      part->mutable_token()->set_id(5);
  }
}

absl::Status ScheduledWorld::ApplyResult(Stream& stream, const executor::v1::StepResult& message) {
  const controller::StepResult result = controller::FromProto(message);
  const auto step = stream.in_flight.Take(result);
  if (!step.ok()) {
    return step.status();
  }
  return controller::StepsInFlight::Apply(
      *step, result, "fuzz", stream.batch, now_,
      [this](const Sequence& sequence) { queue_->Served(sequence.tenant(), 1); },
      [this, &stream](std::unique_ptr<Sequence> sequence) {
        stream.Release({sequence->executor_id()});
        if (!stream.draining) {
          sequence->CountLoss();
        }
        ReturnOrFail(std::move(sequence));
      });
}

void ScheduledWorld::EndUnwanted(Stream& stream) {
  for (const auto& sequence : stream.batch.running()) {
    if (sequence->ended()) {
      continue;
    }
    if (const controller::EndCause cause = sequence->end_cause(); cause != controller::EndCause::kNone) {
      sequence->Fail(controller::StatusOf(cause));
    } else if (sequence->deadline() <= now_) {
      sequence->Fail(absl::DeadlineExceededError("late"));
    } else if (sequence->paused() && now_ - sequence->paused_since() > kSlowReaderTimeout) {
      sequence->Fail(absl::ResourceExhaustedError("slow"));
    }
  }
  queue_->FailExpired(now_);
}

void ScheduledWorld::Return(Stream& stream, std::vector<std::unique_ptr<Sequence>> sequences) {
  std::vector<uint64_t> released;
  for (std::unique_ptr<Sequence>& sequence : sequences) {
    released.push_back(sequence->executor_id());
    queue_->Return(std::move(sequence));
  }
  stream.Release(released);
}

void ScheduledWorld::SendSteps(Stream& stream) {
  while (stream.in_flight.size() <= lookahead_) {
    const std::vector<controller::SequenceStep> step = stream.batch.Compose(now_);
    Return(stream, stream.batch.TakePreempted());
    if (step.empty()) {
      return;
    }
    executor::v1::ExecuteRequest plans;
    executor::v1::ExecuteRequest request;
    request.mutable_step()->set_step_id(++stream.last_step_id);
    stream.plan_ids.BeginStep();
    for (const controller::SequenceStep& part : step) {
      const controller::PlanIds::Lookup plan = stream.plan_ids.Get(part.plan);
      if (plan.added) {
        auto* added = plans.mutable_plans()->add_plans();
        added->set_plan_id(plan.id);
        added->set_bits(part.plan.bits.data(), part.plan.bits.size());
      }
      controller::ToProto(part, plan.id, request.mutable_step()->add_sequences());
    }
    if (plans.has_plans()) {
      stream.Send(plans);
    }
    stream.Send(request);
    stream.in_flight.Add(stream.last_step_id, step, now_);
    // A step that an honest controller sends is right in all its parts; only one that drains refuses.
    for (const auto& part : stream.arriving.back().sequences()) {
      FQ_CHECK(lied_ || part.code() == 0 || stream.engine.draining());
    }
  }
}

void ScheduledWorld::CheckBlocks(const Stream& stream) {
  std::set<uint32_t> used;
  for (const auto& sequence : stream.batch.running()) {
    used.insert(sequence->kv_blocks().begin(), sequence->kv_blocks().end());
  }
  FQ_CHECK(stream.batch.kv().num_available() + used.size() == stream.batch.kv().num_blocks());
}

absl::Status ScheduledWorld::ServeOnce(Stream& stream, uint32_t results) {
  absl::Status status;
  for (; results > 0 && !stream.arriving.empty(); --results) {
    const executor::v1::StepResult message = std::move(stream.arriving.front());
    stream.arriving.pop_front();
    status = ApplyResult(stream, message);
    if (!status.ok()) {
      return status;
    }
  }
  EndUnwanted(stream);
  if (!stream.in_flight.empty() && stream.arriving.empty() && now_ - stream.in_flight.front().sent > kStepTimeout) {
    return absl::UnavailableError("a result is missing");
  }
  stream.Release(stream.batch.RemoveEnded());
  CheckBlocks(stream);
  if (stream.engine.draining()) {
    stream.draining = true;
    if (!stream.batch.running().empty()) {
      Return(stream, stream.batch.TakeAll());
    }
  } else {
    stream.batch.Admit(*queue_, now_);
  }
  SendSteps(stream);
  CheckBlocks(stream);
  return status;
}

void ScheduledWorld::Round(uint32_t executor, uint32_t results) {
  if (!ServeOnce(*streams_[executor], results).ok()) {
    FQ_CHECK(lied_);
    Lose(executor);
  }
}

void ScheduledWorld::FinishAll() {
  for (const Request& request : requests_) {
    request.sink->set_congested(false);
  }
  for (uint32_t executor = 0; executor < streams_.size(); ++executor) {
    if (streams_[executor]->engine.draining()) {
      Lose(executor);
    }
  }
  const auto done = [&] {
    return std::all_of(requests_.begin(), requests_.end(),
                       [](const Request& request) { return request.sink->ended(); });
  };
  for (int round = 0; !done(); ++round) {
    FQ_CHECK(round < kRoundsToFinish);
    PassTime(absl::Seconds(1));
    Round(static_cast<uint32_t>(round % 2), 3);
  }
  FQ_CHECK(queue_->size() == 0 && queue_->tokens() == 0);
  for (uint32_t executor = 0; executor < streams_.size(); ++executor) {
    Round(executor, UINT32_MAX);
    const Stream& stream = *streams_[executor];
    FQ_CHECK(stream.batch.running().empty() && stream.session.num_sequences() == 0);
    FQ_CHECK(stream.batch.kv().num_available() == stream.batch.kv().num_blocks());
  }
  requests_.clear();
  FQ_CHECK(active_->count() == 0);
}

}  // namespace flexquant::fuzz
