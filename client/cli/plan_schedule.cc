#include "client/cli/plan_schedule.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/cli/evaluation/evaluation_log.h"
#include "client/cli/evaluation/measurement.h"
#include "client/cli/evaluation/policy_report.h"
#include "common/precision.h"
#include "common/status_macros.h"

namespace flexquant::cli {
namespace {

// Windows by index.
using Windows = std::map<size_t, std::pair<Piece, WindowOutcome>>;

size_t NumTokensOf(const Windows& windows) {
  return std::accumulate(windows.begin(), windows.end(), size_t{0},
                         [](size_t sum, const auto& window) { return sum + window.second.first.tokens; });
}

// Of the run with the most tokens, if several runs left theirs in the file: controls depend on the run. A window that
// one of them cut off is taken as the longest run has it.
absl::StatusOr<Windows> ReadWindows(const std::string& path, const std::string& policy) {
  FQ_ASSIGN_OR_RETURN(const auto pieces, EvaluationLog::Read(path));
  std::set<std::string> policies;
  std::map<std::string, Windows> runs;
  for (const auto& [id, value] : pieces) {
    const std::optional<Piece> piece = ParsePieceId(id);
    if (!piece.has_value() || !absl::StartsWith(piece->scope, kWindowScope)) {
      continue;
    }
    policies.insert(piece->policy);
    if (piece->policy != policy) {
      continue;
    }
    const std::string where = absl::StrCat(path, ": ", id);
    if (piece->tokens == 0) {
      return absl::InvalidArgumentError(absl::StrCat(where, ": give a window of at least one token"));
    }
    Windows& run = runs[piece->scope];
    const auto known = run.find(piece->window);
    if (known == run.end() || known->second.first.tokens < piece->tokens) {
      FQ_ASSIGN_OR_RETURN(auto outcome, OutcomeFromJson(value, piece->tokens, where));
      run[piece->window] = {*piece, std::move(outcome)};
    }
  }
  if (runs.empty()) {
    return absl::NotFoundError(
        policies.empty()
            ? absl::StrCat(path, " has no policies; give measured.jsonl of a folder of `flexquant evaluate --report`")
            : absl::StrCat(path, " has no policy '", policy, "'; it has ", absl::StrJoin(policies, ", ")));
  }
  return std::move(std::max_element(runs.begin(), runs.end(), [](const auto& a, const auto& b) {
                     return NumTokensOf(a.second) < NumTokensOf(b.second);
                   })->second);
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
  FQ_ASSIGN_OR_RETURN(Windows windows, ReadWindows(path, policy));
  PlanSchedule schedule{policy, {}, 0};
  for (auto& [index, window] : windows) {
    schedule.windows.push_back(std::move(window.second));
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
