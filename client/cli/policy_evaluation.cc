#include "client/cli/policy_evaluation.h"

#include <algorithm>
#include <deque>
#include <limits>
#include <numeric>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/cli/interrupt.h"
#include "common/check.h"
#include "common/status_macros.h"
#include "kernels/kernels.h"

namespace flexquant::cli {
namespace {

using executor::ModelRunner;
using executor::SequenceInput;
using executor::StepBatch;
using executor::StepOutput;

// The top precision and every case on one window.
struct WindowRun {
  size_t place = 0;  // among all windows
  const PolicyWindow* window = nullptr;
  std::vector<std::unique_ptr<controller::PrecisionPolicy>> policies;  // [cases]
  std::vector<std::deque<TokenSignals>> unseen;                        // of the last tokens, [cases]
  std::vector<std::vector<uint32_t>> blocks;                           // KV blocks, [1 + cases]

  bool Has(size_t step) const { return window->prompt_tokens + step < window->tokens.size(); }
};

class Evaluation {
 public:
  Evaluation(const std::vector<PolicyCase>& cases, const PolicyRunners& runners)
      : cases_(cases),
        runner_(runners.policies),
        top_runner_(runners.top),
        prompt_owner_(runner_.info().settings.coarse_prompts || &top_runner_ != &runner_ ? 1 : 0) {
    top_ = PrecisionPlan::Uniform(kTopPrecision, runner_.info().num_layer_groups);
  }

  absl::StatusOr<WindowRun> Begin(size_t place, const PolicyWindow& window, uint32_t& next_block) {
    WindowRun run{place, &window, {}, std::vector<std::deque<TokenSignals>>(cases_.size()), {}};
    const uint32_t block_tokens = runner_.info().kv_block_tokens;
    const size_t shared = window.prompt_tokens / block_tokens;
    for (size_t i = 0; i <= cases_.size(); ++i) {
      run.blocks.emplace_back((window.tokens.size() + block_tokens - 1) / block_tokens);
      for (size_t block = 0; block < run.blocks.back().size(); ++block) {
        run.blocks.back()[block] =
            i > prompt_owner_ && block < shared ? run.blocks[prompt_owner_][block] : next_block++;
      }
    }
    for (const PolicyCase& policy : cases_) {
      run.policies.emplace_back();
      if (policy.make != nullptr) {
        FQ_ASSIGN_OR_RETURN(run.policies.back(), policy.make(window.index));
        run.policies.back()->SetBackend(runner_.info().settings);
      }
    }
    return run;
  }

  // The prompt, the same for every sequence: they share its full blocks and compute only what is in the last one. If
  // policies' prompts or keys and values are coarser, the top precision has its own, which are not.
  absl::Status Prefill(WindowRun& run) {
    const auto prompt = absl::MakeConstSpan(run.window->tokens).first(run.window->prompt_tokens);
    const size_t chunk = runner_.info().max_step_tokens;
    const size_t block_tokens = runner_.info().kv_block_tokens;
    for (size_t i = 0; i < run.blocks.size(); ++i) {
      const size_t first = i <= prompt_owner_ ? 0 : prompt.size() / block_tokens * block_tokens;
      for (size_t begin = first; begin < prompt.size(); begin += chunk) {
        FQ_RETURN_IF_ERROR(Interrupt::Check());
        SequenceInput input = Input(prompt.subspan(begin, chunk), begin, top_, run.blocks[i]);
        const bool sampled = i == prompt_owner_ && begin + chunk >= prompt.size();
        input.prompt_tokens = i < prompt_owner_ ? 0 : static_cast<int64_t>(input.tokens.size());
        input.sample = sampled ? std::optional<executor::SampleSpec>(Greedy()) : std::nullopt;
        input.num_logits = 0;
        FQ_RETURN_IF_ERROR((i == 0 ? top_runner_ : runner_).RunStep({{input}}, &output_));
        FQ_RETURN_IF_ERROR(output_.sequences[0].status);
        if (sampled) {
          for (auto& unseen : run.unseen) {
            unseen.push_back(SignalsOf(*output_.sequences[0].token));
          }
        }
      }
    }
    return absl::OkStatus();
  }

  // Token `step` after the prompt of every window that has one.
  absl::Status Step(std::vector<WindowRun>& runs, size_t step, std::vector<PolicyOutcome>& outcomes) {
    std::vector<WindowRun*> active;
    for (WindowRun& run : runs) {
      if (run.Has(step)) {
        active.push_back(&run);
      }
    }
    FQ_RETURN_IF_ERROR(StepTop(active, step));
    FQ_RETURN_IF_ERROR(StepPolicies(active, step, outcomes));
    for (size_t i = 0; i < cases_.size(); ++i) {
      if (cases_[i].make == nullptr) {
        FQ_RETURN_IF_ERROR(cases_[i].oracle.bytes_a_nat > 0 ? StepPricedOracle(active, step, i, outcomes[i])
                                                            : StepOracle(active, step, i, outcomes[i]));
      }
    }
    return absl::OkStatus();
  }

 private:
  // Logits of the top precision are kept for what follows.
  absl::Status StepTop(const std::vector<WindowRun*>& active, size_t step) {
    StepBatch batch;
    for (const WindowRun* run : active) {
      batch.sequences.push_back(Input(*run, step, top_, 0));
    }
    FQ_RETURN_IF_ERROR(top_runner_.RunStep(batch, &output_));
    top_logits_.resize(active.size());
    top_stats_.resize(active.size());
    for (size_t w = 0; w < active.size(); ++w) {
      FQ_RETURN_IF_ERROR(output_.sequences[w].status);
      top_logits_[w].assign(output_.sequences[w].logits.begin(), output_.sequences[w].logits.end());
      top_stats_[w] = output_.sequences[w].token->stats;
    }
    return absl::OkStatus();
  }

  absl::Status StepPolicies(const std::vector<WindowRun*>& active, size_t step, std::vector<PolicyOutcome>& outcomes) {
    StepBatch batch;
    std::vector<std::pair<size_t, size_t>> of;  // window, case
    for (size_t w = 0; w < active.size(); ++w) {
      for (size_t i = 0; i < cases_.size(); ++i) {
        controller::PrecisionPolicy* policy = active[w]->policies[i].get();
        if (policy != nullptr) {
          auto& unseen = active[w]->unseen[i];
          for (; unseen.size() > static_cast<size_t>(cases_[i].lookahead); unseen.pop_front()) {
            policy->Observe(unseen.front());
          }
          const PrecisionPlan& plan = policy->Next(static_cast<uint32_t>(step + 1));
          const std::optional<double> predicted = policy->Charge(plan);
          if (predicted.has_value()) {
            outcomes[i][active[w]->place].predicted_kl.push_back(*predicted);
          }
          batch.sequences.push_back(Input(*active[w], step, plan, 1 + i));
          of.emplace_back(w, i);
        }
      }
    }
    if (of.empty()) {
      return absl::OkStatus();
    }
    FQ_RETURN_IF_ERROR(runner_.RunStep(batch, &output_));
    for (size_t s = 0; s < of.size(); ++s) {
      const auto [w, i] = of[s];
      const executor::SequenceOutput& output = output_.sequences[s];
      FQ_RETURN_IF_ERROR(output.status);
      Record(*active[w], w, step, output, *batch.sequences[s].plan, outcomes[i]);
      active[w]->unseen[i].push_back(SignalsOf(*output.token));
    }
    return absl::OkStatus();
  }

  // Every level in turn for the windows that no cheaper one was good enough for; the one taken is run last, so the
  // cache holds its keys and values.
  absl::Status StepOracle(const std::vector<WindowRun*>& active, size_t step, size_t oracle, PolicyOutcome& outcome) {
    const Oracle& c = cases_[oracle].oracle;
    std::vector<size_t> indices(active.size());
    std::iota(indices.begin(), indices.end(), size_t{0});
    for (const PrecisionPlan& level : c.levels) {
      StepBatch batch;
      for (const size_t w : indices) {
        batch.sequences.push_back(Input(*active[w], step, level, 1 + oracle));
      }
      FQ_RETURN_IF_ERROR(runner_.RunStep(batch, &output_));
      std::vector<size_t> left;
      for (size_t s = 0; s < indices.size(); ++s) {
        const size_t w = indices[s];
        FQ_RETURN_IF_ERROR(output_.sequences[s].status);
        const double kl = Divergence(w, output_.sequences[s]);
        if (kl <= c.max_kl || &level == &c.levels.back()) {
          Record(*active[w], w, step, output_.sequences[s], level, outcome);
        } else {
          left.push_back(w);
        }
      }
      indices = std::move(left);
      if (indices.empty()) {
        break;
      }
    }
    return absl::OkStatus();
  }

  // Every level for every window, then the chosen ones again, so the cache holds their keys and values.
  absl::Status StepPricedOracle(const std::vector<WindowRun*>& active, size_t step, size_t oracle,
                                PolicyOutcome& outcome) {
    const Oracle& c = cases_[oracle].oracle;
    std::vector<double> least(active.size(), std::numeric_limits<double>::infinity());
    std::vector<const PrecisionPlan*> chosen(active.size());
    const auto run = [&](const auto& plan_of) {
      StepBatch batch;
      for (size_t w = 0; w < active.size(); ++w) {
        batch.sequences.push_back(Input(*active[w], step, plan_of(w), 1 + oracle));
      }
      return runner_.RunStep(batch, &output_);
    };
    for (size_t level = 0; level < c.levels.size(); ++level) {
      FQ_RETURN_IF_ERROR(Interrupt::Check());
      FQ_RETURN_IF_ERROR(run([&](size_t) -> const PrecisionPlan& { return c.levels[level]; }));
      for (size_t w = 0; w < active.size(); ++w) {
        FQ_RETURN_IF_ERROR(output_.sequences[w].status);
        const double cost = c.bytes[level] + c.bytes_a_nat * Divergence(w, output_.sequences[w]);
        if (cost < least[w]) {
          least[w] = cost;
          chosen[w] = &c.levels[level];
        }
      }
    }
    FQ_RETURN_IF_ERROR(run([&](size_t w) -> const PrecisionPlan& { return *chosen[w]; }));
    for (size_t w = 0; w < active.size(); ++w) {
      Record(*active[w], w, step, output_.sequences[w], *chosen[w], outcome);
    }
    return absl::OkStatus();
  }

  executor::SampleSpec Greedy() const { return {&greedy_, &no_tokens_, 0, 0}; }

  SequenceInput Input(absl::Span<const uint32_t> tokens, size_t start, const PrecisionPlan& plan,
                      const std::vector<uint32_t>& blocks) const {
    SequenceInput input;
    input.tokens = tokens;
    input.start = static_cast<int64_t>(start);
    input.plan = &plan;
    input.block_table = blocks;
    input.sample = Greedy();
    input.num_logits = 1;
    return input;
  }

  // Token `step` after the prompt, for the top precision (0) or case `sequence` - 1.
  SequenceInput Input(const WindowRun& run, size_t step, const PrecisionPlan& plan, size_t sequence) const {
    const size_t at = run.window->prompt_tokens + step;
    return Input(absl::MakeConstSpan(run.window->tokens).subspan(at, 1), at, plan, run.blocks[sequence]);
  }

  static TokenSignals SignalsOf(const SampledToken& token) {
    return {token.stats.entropy_nats, token.stats.top1_probability, token.stats.margin};
  }

  // KL of the top precision's distribution to a sequence's, in the `active`th window of this step.
  double Divergence(size_t active, const executor::SequenceOutput& sequence) const {
    const std::vector<float>& top = top_logits_[active];
    return kernels_.kl_divergence(top.data(), top_stats_[active].log_sum_exp, sequence.logits.data(),
                                  sequence.token->stats.log_sum_exp, static_cast<int64_t>(top.size()));
  }

  void Record(const WindowRun& run, size_t active, size_t step, const executor::SequenceOutput& policy,
              const PrecisionPlan& plan, PolicyOutcome& outcome) const {
    WindowOutcome& window = outcome[run.place];
    window.kl.push_back(Divergence(active, policy));
    window.plans.push_back(plan);
    window.signals.push_back(SignalsOf(*policy.token));
    window.agrees.push_back(top_stats_[active].argmax == policy.token->stats.argmax ? 1 : 0);
    if (run.Has(step + 1)) {
      const uint32_t next = run.window->tokens[run.window->prompt_tokens + step + 1];
      window.nll.push_back(static_cast<double>(policy.token->stats.log_sum_exp) -
                           static_cast<double>(policy.logits[next]));
      window.hits.push_back(policy.token->stats.argmax == next ? 1 : 0);
    }
  }

  const std::vector<PolicyCase>& cases_;
  ModelRunner& runner_;
  ModelRunner& top_runner_;
  const size_t prompt_owner_;  // first sequence whose prompt the others share
  const CpuKernels& kernels_ = GetCpuKernels(BestIsa());
  const SamplingConfig greedy_;
  const TokenCounts no_tokens_;
  PrecisionPlan top_;
  StepOutput output_;
  std::vector<std::vector<float>> top_logits_;  // of the windows of this step
  std::vector<LogitStats> top_stats_;
};

}  // namespace

absl::StatusOr<size_t> WindowsAtOnce(const PolicyRunners& runners, size_t num_cases, size_t tokens) {
  const executor::RunnerInfo& info = runners.policies.info();
  const uint32_t kv_blocks = std::min(info.kv_blocks, runners.top.info().kv_blocks);
  const size_t sequences = 1 + num_cases;
  const size_t blocks = (tokens + info.kv_block_tokens - 1) / info.kv_block_tokens * sequences;
  if (blocks > kv_blocks || sequences > info.max_sequences) {
    return absl::ResourceExhaustedError(
        absl::StrCat(sequences, " sequences of ", tokens, " tokens need ", blocks, " KV blocks; there are ", kv_blocks,
                     " for up to ", info.max_sequences,
                     " sequences; give fewer policies, a shorter --window or a larger --kv-cache-gb"));
  }
  return std::min<size_t>({8, kv_blocks / blocks, info.max_sequences / sequences});
}

absl::StatusOr<std::vector<PolicyOutcome>> RunPolicies(const std::vector<PolicyCase>& cases,
                                                       const std::vector<PolicyWindow>& windows,
                                                       const PolicyRunners& runners,
                                                       const std::function<void(uint64_t)>& progress) {
  size_t longest = 0;
  for (const PolicyWindow& window : windows) {
    FQ_CHECK(window.prompt_tokens > 0 && window.prompt_tokens < window.tokens.size());
    longest = std::max(longest, window.tokens.size());
  }
  FQ_ASSIGN_OR_RETURN(const size_t at_once, WindowsAtOnce(runners, cases.size(), longest));
  Evaluation evaluation(cases, runners);
  std::vector<PolicyOutcome> outcomes(cases.size(), PolicyOutcome(windows.size()));
  uint64_t done = 0;
  for (size_t begin = 0; begin < windows.size(); begin += at_once) {
    std::vector<WindowRun> runs;
    uint32_t next_block = 0;
    for (size_t i = begin; i < std::min(windows.size(), begin + at_once); ++i) {
      FQ_ASSIGN_OR_RETURN(auto run, evaluation.Begin(i, windows[i], next_block));
      FQ_RETURN_IF_ERROR(evaluation.Prefill(run));
      runs.push_back(std::move(run));
    }
    const auto has = [&](size_t step) {
      return std::count_if(runs.begin(), runs.end(), [step](const WindowRun& run) { return run.Has(step); });
    };
    for (size_t step = 0; has(step) > 0; ++step) {
      FQ_RETURN_IF_ERROR(Interrupt::Check());
      FQ_RETURN_IF_ERROR(evaluation.Step(runs, step, outcomes));
      done += static_cast<uint64_t>(has(step));
      progress(done);
    }
  }
  return outcomes;
}

}  // namespace flexquant::cli
