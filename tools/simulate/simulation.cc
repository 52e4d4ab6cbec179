#include "tools/simulate/simulation.h"

#include <algorithm>
#include <ctime>
#include <memory>
#include <queue>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/status_macros.h"
#include "controller/balancer.h"
#include "controller/executor_rounds.h"
#include "controller/policy/policy_factory.h"
#include "tools/simulate/simulated_executor.h"

namespace flexquant::simulate {
namespace {

using controller::Sequence;

const absl::Time kStart = absl::FromUnixSeconds(1'000'000);

double CpuSeconds() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

// When each request comes, and what it is.
class Schedule {
 public:
  explicit Schedule(const Arrivals& arrivals) : arrivals_(arrivals) {
    const auto& trace = arrivals.trace;
    const absl::Duration span = trace.back().arrival - trace.front().arrival;
    // One mean distance from the last request to the first one's next time.
    period_ = span + span / std::max<int64_t>(static_cast<int64_t>(trace.size()) - 1, 1);
    scale_ = arrivals.time_scale;
    if (arrivals.rate > 0 && period_ > absl::ZeroDuration()) {
      scale_ = static_cast<double>(trace.size()) / arrivals.rate / absl::ToDoubleSeconds(period_);
    }
  }
  absl::Time At(size_t index) const {
    const size_t size = arrivals_.trace.size();
    const absl::Duration arrival = arrivals_.trace[index % size].arrival - arrivals_.trace.front().arrival;
    return kStart + (arrival + period_ * static_cast<int64_t>(index / size)) * scale_;
  }
  std::unique_ptr<controller::GenerationSpec> Spec(size_t index, uint32_t vocab_size) const {
    cli::TraceRequest request = arrivals_.trace[index % arrivals_.trace.size()];
    request.prompt_tokens =
        cli::ScaledTokens(request.prompt_tokens, arrivals_.token_scale, arrivals_.max_prompt_tokens);
    auto spec = std::make_unique<controller::GenerationSpec>();
    spec->request_id = absl::StrCat(index);
    spec->prompt = cli::PromptOf(request, index, arrivals_.seed, vocab_size);
    spec->max_tokens = cli::ScaledTokens(request.answer_tokens, arrivals_.token_scale, arrivals_.max_answer_tokens);
    spec->sampling.seed = index;
    spec->arrival = At(index);
    return spec;
  }

 private:
  const Arrivals& arrivals_;
  absl::Duration period_;
  double scale_ = 1;
};

class Simulation {
 public:
  Simulation(const controller::ModelPackage& model, const SimulationOptions& options, const Arrivals& arrivals)
      : model_(model), options_(options), arrivals_(arrivals), schedule_(arrivals), queue_(options.queue) {
    const absl::Time last_arrival = schedule_.At(arrivals.requests - 1);
    for (size_t i = 0; i < options.executors.size(); ++i) {
      executors_.push_back(std::make_unique<Executor>(*this, i, options.executors[i], last_arrival));
    }
    result_.arrival_seconds = absl::ToDoubleSeconds(last_arrival - kStart);
  }

  absl::StatusOr<SimulationResult> Run() {
    size_t next = 0;
    while (next < arrivals_.requests || !events_.empty()) {
      if (next < arrivals_.requests && (events_.empty() || schedule_.At(next) <= events_.top().at)) {
        now_ = std::max(now_, schedule_.At(next));
        FQ_RETURN_IF_ERROR(Submit(next++));
        continue;
      }
      const Event event = events_.top();
      events_.pop();
      now_ = std::max(now_, event.at);
      executors_[event.executor]->Round(event.at);
    }
    FQ_CHECK(queue_.size() == 0 && active_->count() == 0);
    result_.seconds = absl::ToDoubleSeconds(last_end_ - kStart);
    for (const auto& executor : executors_) {
      executor->Count(&result_);
    }
    return std::move(result_);
  }

 private:
  struct Event {
    absl::Time at;
    size_t executor = 0;
    bool operator<(const Event& other) const {
      return at != other.at ? at > other.at : executor > other.executor;  // the first one on top
    }
  };

  class Sink final : public controller::GenerationSink {
   public:
    explicit Sink(Simulation& owner) : owner_(owner) {}
    void OnStarted(double /*backend_kl*/) override {}
    void OnDelta(controller::AnswerDelta /*delta*/) override {}
    void OnFinished(controller::AnswerEnd end) override {
      SimulationResult& result = owner_.result_;
      owner_.last_end_ = owner_.now_;
      result.tokens += end.generated_tokens;
      result.ttft_ms.push_back(static_cast<float>(absl::ToDoubleMilliseconds(end.time_to_first_token)));
      result.tpot_ms.push_back(
          end.generated_tokens < 2 ? -1.0F : static_cast<float>(absl::ToDoubleMilliseconds(end.time_per_output_token)));
    }
    void OnFailed(absl::Status status) override {
      owner_.last_end_ = owner_.now_;
      ++owner_.result_.failures[std::string(absl::StatusCodeToString(status.code()))];
    }

   private:
    Simulation& owner_;
  };

  // An executor and its worker.
  class Executor {
   public:
    Executor(Simulation& owner, size_t index, const ExecutorSpec& spec, absl::Time last_arrival)
        : owner_(owner),
          index_(index),
          link_(absl::StrCat("executor-", index), spec.cost, *owner.model_.layer_groups, owner.options_.round_trip,
                last_arrival, owner.now_, [this](absl::Time at) { Schedule(at); }),
          rounds_(Describe(spec), owner.options_.worker, link_, owner.queue_, owner.balancer_, figures_,
                  {[this] { Wake(); }, [] {}, [] { return true; }, [](bool, const absl::Status&) {}}) {}

    void Wake() {
      if (!std::exchange(woken_, true)) {
        Schedule(owner_.now_);
      }
    }
    void Round(absl::Time at) {
      woken_ = false;
      const double begun = CpuSeconds();
      const absl::Status status = rounds_.Round(/*listed=*/true, owner_.now_);
      owner_.result_.rounds_cpu_seconds += CpuSeconds() - begun;
      FQ_CHECK(status.ok());
      if (timer_ <= at) {
        timer_ = absl::InfiniteFuture();
      }
      if (const absl::Time next = rounds_.NextTimeout(); next < timer_) {
        timer_ = next;
        Schedule(next);
      }
    }
    void Count(SimulationResult* result) const {
      ExecutorOutcome& outcome = result->executors.emplace_back();
      outcome.steps = link_.steps();
      outcome.answers = link_.started();
      outcome.utilisation =
          result->arrival_seconds > 0 ? absl::ToDoubleSeconds(link_.busy()) / result->arrival_seconds : 0;
      result->steps += outcome.steps;
      result->prompt_tokens += figures_.prefix_tokens;
      result->cached_tokens += figures_.prefix_hits;
      result->preemptions += figures_.preemptions;
    }

   private:
    static controller::ExecutorDescription Describe(const ExecutorSpec& spec) {
      controller::ExecutorDescription description;
      description.num_kv_blocks = spec.kv_blocks;
      description.kv_block_tokens = spec.kv_block_tokens;
      description.max_sequences = spec.max_sequences;
      description.max_step_tokens = spec.max_step_tokens;
      return description;
    }
    void Schedule(absl::Time at) { owner_.events_.push({at, index_}); }

    Simulation& owner_;
    const size_t index_;
    bool woken_ = false;
    absl::Time timer_ = absl::InfiniteFuture();
    controller::ExecutorFigures figures_;
    SimulatedExecutor link_;
    controller::ExecutorRounds rounds_;
  };

  // As Scheduler::Submit.
  absl::Status Submit(size_t index) {
    auto spec = schedule_.Spec(index, model_.tokenizer->vocab_size());
    FQ_ASSIGN_OR_RETURN(auto resolved, controller::MakePolicy(options_.policy, model_.policies, index));
    spec->policy = std::move(resolved.policy);
    spec->prefill_plan = std::move(resolved.prefill_plan);
    spec->isolated = options_.isolated;
    const double begun = CpuSeconds();
    const uint64_t id = index + 1;
    const uint64_t tokens = spec->prompt.size() + spec->max_tokens - 1;
    const auto active = active_->Add(id, spec->tenant, spec->request_id);
    auto sequence = std::make_unique<Sequence>(
        std::move(spec), std::make_shared<Sink>(*this),
        Sequence::Shared{*model_.tokenizer, *model_.layer_groups, static_cast<uint32_t>(options_.worker.lookahead)},
        active);
    absl::Status accepted;
    if (std::none_of(options_.executors.begin(), options_.executors.end(), [&](const ExecutorSpec& executor) {
          return uint64_t{executor.kv_blocks} * executor.kv_block_tokens >= tokens;
        })) {
      accepted = absl::ResourceExhaustedError("fits no executor");
    } else {
      balancer_.Offer(*sequence, now_);
      accepted = queue_.Push(sequence);
    }
    if (accepted.ok()) {
      balancer_.Queued(id);
    } else {
      balancer_.Withdraw(id);
      sequence->Fail(accepted);
    }
    result_.submit_cpu_seconds += CpuSeconds() - begun;
    return absl::OkStatus();
  }

  const controller::ModelPackage& model_;
  const SimulationOptions& options_;
  const Arrivals& arrivals_;
  const Schedule schedule_;
  absl::Time now_ = kStart;
  absl::Time last_end_ = kStart;
  SimulationResult result_;
  const std::shared_ptr<controller::ActiveRequests> active_ = std::make_shared<controller::ActiveRequests>();
  controller::RequestQueue queue_;
  controller::Balancer balancer_;
  std::priority_queue<Event> events_;
  std::vector<std::unique_ptr<Executor>> executors_;
};

}  // namespace

absl::StatusOr<SimulationResult> Simulate(const controller::ModelPackage& model, const SimulationOptions& options,
                                          const Arrivals& arrivals) {
  FQ_CHECK(!options.executors.empty() && !arrivals.trace.empty() && arrivals.requests > 0);
  return Simulation(model, options, arrivals).Run();
}

}  // namespace flexquant::simulate
