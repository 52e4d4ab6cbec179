#include "client/cli/plan_schedule.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "client/cli/evaluation/evaluation_log.h"
#include "common/precision.h"
#include "common/status_macros.h"

namespace flexquant::cli {
namespace {

constexpr char kScope[] = "policies/";
constexpr char kControls[] = "policies of ";

absl::StatusOr<WindowOutcome> ReadWindow(const Json& json, const std::string& where) {
  const size_t tokens = json.is_object() && json.contains("kl") && json["kl"].is_array() ? json["kl"].size() : 0;
  if (tokens == 0) {
    return absl::InvalidArgumentError(absl::StrCat(where, " has no tokens; run `flexquant evaluate --report` again"));
  }
  return OutcomeFromJson(json, tokens, where);
}

// As many tokens from the front of `values` as there are, at most.
template <class T>
void Cut(std::vector<T>& values, size_t count) {
  values.resize(std::min(values.size(), count));
}

}  // namespace

size_t PlanSchedule::NumTokens() const {
  return std::accumulate(windows.begin(), windows.end(), size_t{0},
                         [](size_t sum, const WindowOutcome& window) { return sum + window.plans.size(); });
}

double PlanSchedule::MeanKl() const {
  double sum = 0;
  for (const WindowOutcome& window : windows) {
    sum = std::accumulate(window.kl.begin(), window.kl.end(), sum);
  }
  return sum / static_cast<double>(NumTokens());
}

void PlanSchedule::Shorten(size_t tokens) {
  size_t left = tokens;
  size_t kept = 0;
  for (; kept < windows.size() && left > 0; ++kept) {
    WindowOutcome& window = windows[kept];
    Cut(window.kl, left);
    Cut(window.plans, left);
    Cut(window.signals, left);
    left -= window.plans.size();
  }
  windows.resize(kept);
}

absl::StatusOr<PlanSchedule> ReadPlanSchedule(const std::string& path, const std::string& policy) {
  FQ_ASSIGN_OR_RETURN(const auto pieces, EvaluationLog::Read(path));
  std::set<std::string> policies;
  std::map<size_t, WindowOutcome> windows;
  for (const auto& [id, value] : pieces) {
    absl::string_view rest = id;
    // Controls depend on the run: "policies of 480 tokens and budgets 0.01/NAME/...".
    if (!absl::ConsumePrefix(&rest, kScope) && absl::ConsumePrefix(&rest, kControls)) {
      rest.remove_prefix(std::min(rest.find('/') + 1, rest.size()));
    } else if (rest.size() == id.size()) {
      continue;
    }
    const size_t slash = rest.rfind('/');
    size_t index = 0;
    if (slash == absl::string_view::npos) {
      continue;
    }
    // "INDEX of N tokens".
    const absl::string_view number = rest.substr(slash + 1, rest.substr(slash + 1).find(' '));
    if (!absl::SimpleAtoi(number, &index)) {
      continue;
    }
    const std::string name(rest.substr(0, slash));
    policies.insert(name);
    if (name == policy) {
      FQ_ASSIGN_OR_RETURN(windows[index], ReadWindow(value, absl::StrCat(path, ": ", id)));
    }
  }
  if (windows.empty()) {
    return absl::NotFoundError(
        policies.empty()
            ? absl::StrCat(path, " has no policies; give measured.jsonl of a folder of `flexquant evaluate --report`")
            : absl::StrCat(path, " has no policy '", policy, "'; it has ", absl::StrJoin(policies, ", ")));
  }
  PlanSchedule schedule{policy, {}, 0};
  for (auto& [index, window] : windows) {
    schedule.windows.push_back(std::move(window));
  }
  const size_t groups = schedule.windows[0].plans[0].bits.size();
  for (const WindowOutcome& window : schedule.windows) {
    for (const PrecisionPlan& plan : window.plans) {
      if (plan.bits.size() != groups || groups % kLayerGroupsPerBlock != 1 || groups == 1) {
        return absl::InvalidArgumentError(absl::StrCat(path, ": a plan of '", policy, "' has ", plan.bits.size(),
                                                       " layer groups, another one ", groups,
                                                       "; all need the same number, 4 a layer and 1 for the head"));
      }
    }
  }
  schedule.num_layer_groups = static_cast<int>(groups);
  return schedule;
}

}  // namespace flexquant::cli
