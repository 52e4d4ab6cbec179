#include "tests/testing/fake_executor.h"

#include <algorithm>
#include <chrono>
#include <deque>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "grpcpp/server_builder.h"

namespace flexquant::testing {
namespace {

constexpr std::chrono::seconds kPatience{30};

struct FakeSequence {
  std::vector<uint32_t> tokens;  // in the KV cache
  uint32_t prompt_tokens = 0;
  std::optional<uint32_t> last_sampled;
  std::vector<uint32_t> blocks;

  std::vector<uint32_t> prompt() const { return {tokens.begin(), tokens.begin() + prompt_tokens}; }
};

}  // namespace

// One Execute stream. All members are guarded by the executor's mutex.
class FakeExecutor::Stream final
    : public grpc::ServerBidiReactor<executor::v1::ExecuteRequest, executor::v1::ExecuteResponse> {
 public:
  explicit Stream(FakeExecutor& owner) : owner_(owner) {
    const std::lock_guard lock(owner_.mutex_);
    owner_.streams_.insert(this);
    if (!owner_.alive_ || owner_.draining_) {
      End({grpc::StatusCode::UNAVAILABLE, owner_.alive_ ? "the executor is shutting down" : "the executor is dead"});
      return;
    }
    StartRead(&incoming_);
  }

  // With the owner's mutex held.
  void End(const grpc::Status& status) {
    if (!ended_) {
      ended_ = true;
      Finish(status);
    }
  }
  void TellDraining() {
    executor::v1::ExecuteResponse response;
    response.mutable_draining();
    outbox_.push_front(std::move(response));  // held results are not computed yet
    SendAllowed();
    EndIfDrained();
  }
  void EndIfDrained() {
    if (owner_.draining_ && sequences_.empty() && !writing_ && outbox_.empty()) {
      End({grpc::StatusCode::UNAVAILABLE, "the executor is shutting down"});
    }
  }
  void SendAllowed() {
    while (!ended_ && !writing_ && !outbox_.empty()) {
      if (outbox_.front().has_result() && !owner_.ResultAllowed()) {
        return;
      }
      outgoing_ = std::move(outbox_.front());
      outbox_.pop_front();
      writing_ = true;
      StartWrite(&outgoing_);
    }
  }

  void OnReadDone(bool ok) override {
    const std::lock_guard lock(owner_.mutex_);
    if (!ok) {
      End(grpc::Status::OK);
      return;
    }
    if (ended_) {
      return;
    }
    Handle();
    if (!ended_) {
      SendAllowed();
      StartRead(&incoming_);
    }
    owner_.changed_.notify_all();
  }
  void OnWriteDone(bool ok) override {
    const std::lock_guard lock(owner_.mutex_);
    writing_ = false;
    if (ok) {
      SendAllowed();
      EndIfDrained();
    }
  }
  void OnDone() override {
    {
      const std::lock_guard lock(owner_.mutex_);
      owner_.live_sequences_ -= sequences_.size();
      owner_.streams_.erase(this);
      owner_.changed_.notify_all();
    }
    delete this;
  }

 private:
  void Violation(grpc::StatusCode code, const std::string& what) {
    owner_.violations_.push_back(what);
    End({code, what});
  }

  void Handle() {
    if (incoming_.has_open()) {
      Open(incoming_.open());
    } else if (!opened_) {
      Violation(grpc::StatusCode::FAILED_PRECONDITION, "the first message is not open");
    } else if (incoming_.has_plans()) {
      AddPlans(incoming_.plans());
    } else if (incoming_.has_step()) {
      RunStep(incoming_.step());
    } else if (incoming_.has_release()) {
      for (const uint64_t id : incoming_.release().sequence_ids()) {
        owner_.live_sequences_ -= sequences_.erase(id);
      }
      EndIfDrained();
    } else {
      Violation(grpc::StatusCode::INVALID_ARGUMENT, "a message without content");
    }
  }

  void Open(const executor::v1::OpenStream& open) {
    if (opened_) {
      Violation(grpc::StatusCode::FAILED_PRECONDITION, "a second open");
      return;
    }
    if (!open.expected_instance_id().empty() && open.expected_instance_id() != owner_.instance_id_) {
      End({grpc::StatusCode::ABORTED, "another epoch"});
      return;
    }
    opened_ = true;
    ++owner_.streams_opened_;
    AddPlans(open.plans());
    executor::v1::ExecuteResponse response;
    response.mutable_opened()->set_instance_id(owner_.instance_id_);
    outbox_.push_back(std::move(response));
  }

  void AddPlans(const executor::v1::PlanTable& table) {
    for (const auto& plan : table.plans()) {
      if (plan.plan_id() > 4095 || plan.bits().size() != owner_.options_.num_layer_groups) {
        Violation(grpc::StatusCode::INVALID_ARGUMENT, absl::StrCat("bad plan ", plan.plan_id()));
        return;
      }
      for (const char bits : plan.bits()) {
        const bool quantized = bits == 3 || bits == 4 || bits == 5 || bits == 6 || bits == 8;
        if (!quantized && !(bits == 16 && owner_.options_.has_reference)) {
          Violation(grpc::StatusCode::INVALID_ARGUMENT, absl::StrCat("a plan with ", static_cast<int>(bits), " bits"));
          return;
        }
      }
      plans_[plan.plan_id()].assign(plan.bits().begin(), plan.bits().end());
    }
  }

  void RunStep(const executor::v1::StepRequest& step) {
    if (step.step_id() != last_step_ + 1) {
      Violation(grpc::StatusCode::FAILED_PRECONDITION, absl::StrCat("step ", step.step_id(), " after ", last_step_));
      return;
    }
    last_step_ = step.step_id();
    uint64_t tokens = 0;
    std::set<uint64_t> ids;
    for (const auto& part : step.sequences()) {
      tokens += std::max(part.token_ids_size(), 1);
      ids.insert(part.sequence_id());
      if (plans_.count(part.plan_id()) == 0) {
        Violation(grpc::StatusCode::INVALID_ARGUMENT, absl::StrCat("unknown plan ", part.plan_id()));
        return;
      }
    }
    const auto sequences = static_cast<uint32_t>(step.sequences_size());
    if (sequences == 0 || sequences > owner_.options_.max_sequences || tokens > owner_.options_.max_step_tokens ||
        ids.size() != sequences) {
      Violation(grpc::StatusCode::INVALID_ARGUMENT,
                absl::StrCat("step of ", sequences, " sequences and ", tokens, " tokens"));
      return;
    }
    executor::v1::ExecuteResponse response;
    response.mutable_result()->set_step_id(step.step_id());
    RecordedStep recorded;
    for (const auto& part : step.sequences()) {
      RecordedSequence& record = recorded.emplace_back();
      record.sequence_id = part.sequence_id();
      record.plan = plans_[part.plan_id()];
      record.position = part.position();
      record.token_ids.assign(part.token_ids().begin(), part.token_ids().end());
      record.sample = part.sample();
      if (part.has_start()) {
        record.start = part.start();
      }
      RunSequence(part, response.mutable_result()->add_sequences());
    }
    owner_.steps_.push_back(std::move(recorded));
    outbox_.push_back(std::move(response));
  }

  void Refuse(executor::v1::SequenceResult* result, grpc::StatusCode code, const std::string& what) {
    owner_.violations_.push_back(what);
    result->set_code(code);
    result->set_message(what);
  }

  void RunSequence(const executor::v1::SequenceStep& part, executor::v1::SequenceResult* result) {
    result->set_sequence_id(part.sequence_id());
    const bool known = sequences_.count(part.sequence_id()) > 0;
    if (part.has_start() == known) {
      Refuse(result, known ? grpc::StatusCode::FAILED_PRECONDITION : grpc::StatusCode::NOT_FOUND,
             absl::StrCat("sequence ", part.sequence_id(), known ? " started twice" : " is unknown"));
      return;
    }
    if (part.has_start() && owner_.draining_) {
      result->set_code(grpc::StatusCode::UNAVAILABLE);
      result->set_message("the executor is shutting down");
      return;
    }
    if (part.has_start()) {
      ++owner_.live_sequences_;
      FakeSequence& made = sequences_[part.sequence_id()];
      made.prompt_tokens = part.start().prompt_tokens();
      made.tokens.assign(part.start().cached_token_ids().begin(), part.start().cached_token_ids().end());
      if (made.tokens.size() > made.prompt_tokens) {
        Refuse(result, grpc::StatusCode::INVALID_ARGUMENT, "more is cached than the prompt");
        return;
      }
    }
    FakeSequence& sequence = sequences_[part.sequence_id()];
    if (part.position() != sequence.tokens.size()) {
      Refuse(result, grpc::StatusCode::FAILED_PRECONDITION,
             absl::StrCat("position ", part.position(), " instead of ", sequence.tokens.size()));
      return;
    }
    if (part.token_ids().empty() && !sequence.last_sampled.has_value()) {
      Refuse(result, grpc::StatusCode::FAILED_PRECONDITION, "nothing was sampled to go on from");
      return;
    }
    if (!TakeBlocks(part, sequence, result)) {
      return;
    }
    const uint32_t block_tokens = owner_.options_.kv_block_tokens;
    const size_t full_before = sequence.tokens.size() / block_tokens;
    if (part.token_ids().empty()) {
      sequence.tokens.push_back(*sequence.last_sampled);
    }
    sequence.tokens.insert(sequence.tokens.end(), part.token_ids().begin(), part.token_ids().end());
    sequence.last_sampled.reset();
    if (sequence.tokens.size() > sequence.blocks.size() * block_tokens) {
      Refuse(result, grpc::StatusCode::INVALID_ARGUMENT, "the block table does not cover the step");
      return;
    }
    for (size_t i = full_before; (i + 1) * block_tokens <= sequence.tokens.size(); ++i) {
      owner_.contents_[sequence.blocks[i]].assign(
          sequence.tokens.begin(), sequence.tokens.begin() + static_cast<int64_t>((i + 1) * block_tokens));
    }
    if (part.sample() ? sequence.tokens.size() < sequence.prompt_tokens : part.token_ids().empty()) {
      Refuse(result, grpc::StatusCode::INVALID_ARGUMENT, "a sample inside the prompt, or a decode step without one");
      return;
    }
    if (part.audit() && (!owner_.options_.audit_kl.has_value() || !part.sample() || part.token_ids_size() > 0)) {
      Refuse(result, grpc::StatusCode::UNIMPLEMENTED, "an audit where none was offered");
      return;
    }
    if (part.sample()) {
      Sample(sequence, result);
    }
    if (part.audit()) {
      result->set_audit_kl(*owner_.options_.audit_kl);
    }
  }

  bool TakeBlocks(const executor::v1::SequenceStep& part, FakeSequence& sequence,
                  executor::v1::SequenceResult* result) {
    const uint32_t block_tokens = owner_.options_.kv_block_tokens;
    const size_t cached = part.has_start() ? sequence.tokens.size() / block_tokens : 0;
    if (cached * block_tokens != (part.has_start() ? sequence.tokens.size() : 0)) {
      Refuse(result, grpc::StatusCode::INVALID_ARGUMENT, "cached tokens that fill no whole blocks");
      return false;
    }
    for (const uint32_t block : part.new_kv_blocks()) {
      if (block >= owner_.options_.num_kv_blocks) {
        Refuse(result, grpc::StatusCode::INVALID_ARGUMENT, absl::StrCat("block ", block, " is out of range"));
        return false;
      }
      if (sequence.blocks.size() < cached) {
        const std::vector<uint32_t> prefix(
            sequence.tokens.begin(),
            sequence.tokens.begin() + static_cast<int64_t>((sequence.blocks.size() + 1) * block_tokens));
        if (owner_.contents_[block] != prefix) {
          Refuse(result, grpc::StatusCode::INVALID_ARGUMENT,
                 absl::StrCat("block ", block, " does not hold the tokens that it is said to"));
          return false;
        }
      } else if (InUse(block)) {
        Refuse(result, grpc::StatusCode::INVALID_ARGUMENT, absl::StrCat("block ", block, " is taken"));
        return false;
      } else {
        owner_.contents_.erase(block);
      }
      sequence.blocks.push_back(block);
    }
    return true;
  }

  bool InUse(uint32_t block) const {
    return std::any_of(sequences_.begin(), sequences_.end(), [&](const auto& other) {
      const auto& blocks = other.second.blocks;
      return std::find(blocks.begin(), blocks.end(), block) != blocks.end();
    });
  }

  void Sample(FakeSequence& sequence, executor::v1::SequenceResult* result) {
    const auto index = static_cast<uint32_t>(sequence.tokens.size()) - sequence.prompt_tokens;
    const ScriptedToken scripted = owner_.script_(sequence.prompt(), index);
    if (!scripted.error.ok()) {
      result->set_code(static_cast<int>(scripted.error.code()));
      result->set_message(std::string(scripted.error.message()));
      return;
    }
    sequence.last_sampled = scripted.id;
    executor::v1::SampledToken* token = result->mutable_token();
    token->set_id(scripted.id);
    token->set_entropy_nats(scripted.entropy_nats);
    token->set_top1_probability(0.5F);
    token->set_margin(1.0F);
    token->set_logprob(-0.5F);
    token->add_top_ids(scripted.id);
    token->add_top_logprobs(-0.5F);
  }

  FakeExecutor& owner_;
  executor::v1::ExecuteRequest incoming_;
  executor::v1::ExecuteResponse outgoing_;
  std::deque<executor::v1::ExecuteResponse> outbox_;
  std::map<uint32_t, std::vector<int>> plans_;
  std::map<uint64_t, FakeSequence> sequences_;
  uint64_t last_step_ = 0;
  bool opened_ = false;
  bool writing_ = false;
  bool ended_ = false;
};

class FakeExecutor::Service final : public executor::v1::ExecutorService::CallbackService {
 public:
  explicit Service(FakeExecutor& owner) : owner_(owner) {}

  grpc::ServerUnaryReactor* Describe(grpc::CallbackServerContext* context,
                                     const executor::v1::DescribeRequest* /*request*/,
                                     executor::v1::DescribeResponse* response) override {
    const std::lock_guard lock(owner_.mutex_);
    const FakeExecutorOptions& options = owner_.options_;
    response->set_instance_id(owner_.instance_id_);
    response->set_version("0");
    response->set_device("fake");
    response->set_model_revision(options.model_revision);
    response->set_num_layer_groups(options.num_layer_groups);
    for (const uint32_t bits : {3U, 4U, 5U, 6U, 8U}) {
      response->add_precisions(bits);
    }
    if (options.has_reference) {
      response->add_precisions(16);
    }
    response->set_num_kv_blocks(options.num_kv_blocks);
    response->set_kv_block_tokens(options.kv_block_tokens);
    response->set_max_sequences(options.max_sequences);
    response->set_max_step_tokens(options.max_step_tokens);
    response->set_max_streams(16);
    response->set_audits(options.audit_kl.has_value());
    response->set_kv_cache_bits(options.kv_cache_bits);
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(owner_.alive_ ? grpc::Status::OK
                                  : grpc::Status(grpc::StatusCode::UNAVAILABLE, "the executor is dead"));
    return reactor;
  }

  grpc::ServerBidiReactor<executor::v1::ExecuteRequest, executor::v1::ExecuteResponse>* Execute(
      grpc::CallbackServerContext* /*context*/) override {
    return new Stream(owner_);
  }

 private:
  FakeExecutor& owner_;
};

FakeExecutor::FakeExecutor(const FakeExecutorOptions& options, Script script)
    : options_(options),
      script_(std::move(script)),
      instance_id_(options.instance_id),
      service_(std::make_unique<Service>(*this)) {
  grpc::ServerBuilder builder;
  builder.RegisterService(service_.get());
  server_ = builder.BuildAndStart();
  channel_ = server_->InProcessChannel(grpc::ChannelArguments());
}

FakeExecutor::~FakeExecutor() {
  Die();
  server_->Shutdown(std::chrono::system_clock::now());
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return streams_.empty(); });
}

bool FakeExecutor::ResultAllowed() {
  if (holding_ && allowed_ == 0) {
    return false;
  }
  allowed_ -= holding_ ? 1 : 0;
  return true;
}

void FakeExecutor::HoldResults() {
  const std::lock_guard lock(mutex_);
  holding_ = true;
  allowed_ = 0;
}

void FakeExecutor::AllowResults(uint64_t count) {
  const std::lock_guard lock(mutex_);
  allowed_ += count;
  for (Stream* stream : streams_) {
    stream->SendAllowed();
  }
}

void FakeExecutor::ResumeResults() {
  const std::lock_guard lock(mutex_);
  holding_ = false;
  for (Stream* stream : streams_) {
    stream->SendAllowed();
  }
}

void FakeExecutor::Die() {
  const std::lock_guard lock(mutex_);
  alive_ = false;
  changed_.notify_all();
  for (Stream* stream : streams_) {
    stream->End({grpc::StatusCode::UNAVAILABLE, "the executor died"});
  }
}

void FakeExecutor::Drain() {
  const std::lock_guard lock(mutex_);
  draining_ = true;
  for (Stream* stream : streams_) {
    stream->TellDraining();
  }
}

void FakeExecutor::Restart(const std::string& instance_id) {
  const std::lock_guard lock(mutex_);
  contents_.clear();
  draining_ = false;
  instance_id_ = instance_id;
  alive_ = true;
}

bool FakeExecutor::WaitForSteps(size_t count) const {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, kPatience, [&] { return steps_.size() >= count; });
}

void FakeExecutor::WaitUntilQuiet(absl::Duration duration) const {
  std::unique_lock lock(mutex_);
  size_t steps = steps_.size();
  while (changed_.wait_for(lock, absl::ToChronoMilliseconds(duration), [&] { return steps_.size() != steps; })) {
    steps = steps_.size();
  }
}

bool FakeExecutor::WaitUntilIdle() const {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, kPatience, [&] { return live_sequences_ == 0; });
}

std::vector<RecordedStep> FakeExecutor::steps() const {
  const std::lock_guard lock(mutex_);
  return steps_;
}

std::vector<std::string> FakeExecutor::violations() const {
  const std::lock_guard lock(mutex_);
  return violations_;
}

int FakeExecutor::streams_opened() const {
  const std::lock_guard lock(mutex_);
  return streams_opened_;
}

}  // namespace flexquant::testing
