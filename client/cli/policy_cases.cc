#include "client/cli/policy_cases.h"

#include <algorithm>
#include <memory>
#include <random>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/status_macros.h"

namespace flexquant::cli {
namespace {

constexpr char kOracle[] = "oracle";
constexpr char kKlPrefix[] = "kl:";
constexpr char kBitsPrefix[] = "bits:";

// Plans given beforehand, in order.
class GivenPlans : public controller::PrecisionPolicy {
 public:
  explicit GivenPlans(absl::Span<const PrecisionPlan> plans) : plans_(plans) {}
  const PrecisionPlan& Next(uint32_t answer_index) override { return plans_[answer_index - 1]; }
  absl::string_view name() const override { return "given"; }

 private:
  const absl::Span<const PrecisionPlan> plans_;
};

std::vector<PrecisionPlan> AllPlans(const PolicyOutcome& outcome) {
  std::vector<PrecisionPlan> all;
  for (const WindowOutcome& window : outcome) {
    all.insert(all.end(), window.plans.begin(), window.plans.end());
  }
  return all;
}

// `dealt` [tokens of all windows].
PolicyCase Dealt(const PolicyCase& of, const char* suffix, const PolicyOutcome& outcome,
                 const std::vector<PrecisionPlan>& dealt) {
  std::vector<std::vector<PrecisionPlan>> plans;
  auto next = dealt.begin();
  for (const WindowOutcome& window : outcome) {
    const auto count = static_cast<std::ptrdiff_t>(window.plans.size());
    plans.emplace_back(next, next + count);
    next += count;
  }
  PolicyCase control{absl::StrCat(of.name, suffix),
                     [plans = std::move(plans)](size_t window) { return std::make_unique<GivenPlans>(plans[window]); }};
  control.budget = of.budget;
  return control;
}

}  // namespace

absl::Status NamePolicy(const std::string& name, RequestFlags& parameters) {
  absl::string_view value = name;
  auto* goal = absl::ConsumePrefix(&value, kKlPrefix)     ? &parameters.max_mean_kl
               : absl::ConsumePrefix(&value, kBitsPrefix) ? &parameters.target_bits
                                                          : nullptr;
  if (goal == nullptr) {
    parameters.precision = name;
    const std::string fault = CheckPrecision(name);
    if (!fault.empty()) {
      return absl::InvalidArgumentError(absl::StrCat("--policy: ", fault));
    }
  } else {
    double number = 0;
    if (!absl::SimpleAtod(value, &number)) {
      return absl::InvalidArgumentError(absl::StrCat("--policy: '", name, "': '", value, "' is not a number"));
    }
    *goal = number;
  }
  if (name != "dynamic") {
    parameters.entropy_high = parameters.hysteresis = parameters.pple_weight = std::nullopt;
  }
  if (name != "position") {
    parameters.tokens_per_level = std::nullopt;
  }
  if (name != "dynamic" && name != "position" && name != "random" && goal == nullptr) {
    parameters.min_bits = parameters.max_bits = std::nullopt;
  }
  return absl::OkStatus();
}

absl::StatusOr<PolicyCase> MakePolicyCase(const PolicyFlags& flags, const std::string& name,
                                          const controller::PolicyContext& context) {
  if (name == kOracle) {
    return PolicyCase{name, nullptr, flags.lookahead, {context.ladder.levels, flags.oracle_kl}};
  }
  RequestFlags parameters = flags.parameters;
  FQ_RETURN_IF_ERROR(NamePolicy(name, parameters));
  auto request = std::make_shared<v1::GenerateRequest>();
  FQ_RETURN_IF_ERROR(FillRequest(parameters, *request));
  const uint64_t seed = flags.seed;
  // Refused here rather than in the middle of the run.
  FQ_RETURN_IF_ERROR(controller::MakePolicy(request->precision(), context, seed).status());
  PolicyCase made{
      name, [request, context, seed](size_t window) -> absl::StatusOr<std::unique_ptr<controller::PrecisionPolicy>> {
        FQ_ASSIGN_OR_RETURN(auto resolved, controller::MakePolicy(request->precision(), context, seed + window));
        return std::move(resolved.policy);
      }};
  made.lookahead = flags.lookahead;
  made.budget = parameters.max_mean_kl.value_or(0);
  return made;
}

absl::StatusOr<std::vector<PolicyWindow>> WithPrompts(const std::vector<std::vector<uint32_t>>& windows,
                                                      size_t prompt_tokens) {
  std::vector<PolicyWindow> made;
  size_t longest = 0;
  for (const std::vector<uint32_t>& window : windows) {
    longest = std::max(longest, window.size());
    if (window.size() > prompt_tokens) {
      made.push_back({made.size(), window, prompt_tokens});
    }
  }
  if (longest < prompt_tokens + 2) {
    return absl::InvalidArgumentError(absl::StrCat("--prompt-tokens is ", prompt_tokens,
                                                   "; the longest window of the text has ", longest,
                                                   " tokens, of which at least two must be left"));
  }
  return made;
}

PolicyCase ShuffledControl(const PolicyCase& of, const PolicyOutcome& outcome, uint64_t seed) {
  std::vector<PrecisionPlan> plans = AllPlans(outcome);
  std::mt19937_64 random(seed);
  for (size_t i = plans.size(); i > 1; --i) {
    std::swap(plans[i - 1], plans[random() % i]);
  }
  return Dealt(of, kShuffledSuffix, outcome, plans);
}

PolicyCase RandomControl(const PolicyCase& of, const PolicyOutcome& outcome, uint64_t seed) {
  const std::vector<PrecisionPlan> plans = AllPlans(outcome);
  std::vector<PrecisionPlan> drawn;
  std::mt19937_64 random(seed);
  for (size_t i = 0; i < plans.size(); ++i) {
    drawn.push_back(plans[random() % plans.size()]);
  }
  return Dealt(of, kRandomSuffix, outcome, drawn);
}

}  // namespace flexquant::cli
