#include "client/cli/evaluation/measurement.h"

#include <algorithm>
#include <cstdint>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "client/cli/progress.h"
#include "common/status_macros.h"

namespace flexquant::cli {
namespace {

// Small enough that a run soon stops and little is lost then, large enough that the top precision beside it costs
// little.
constexpr size_t kCasesAPiece = 15;
constexpr size_t kWindowsAPiece = 2;

size_t NumTokens(const PolicyWindow& window) { return window.tokens.size() - window.prompt_tokens; }

std::string IdOf(const std::string& scope, const PolicyCase& c, const PolicyWindow& window) {
  return PieceId({scope, c.name, window.index, NumTokens(window)});
}

// As many cases as fit the KV cache with one window of `tokens`.
absl::StatusOr<size_t> CasesAtOnce(const PolicyRunners& runners, size_t cases, size_t tokens) {
  absl::Status status;
  for (size_t count = std::min(cases, kCasesAPiece); count > 0; --count) {
    status = WindowsAtOnce(runners, count, tokens).status();
    if (status.ok()) {
      return count;
    }
  }
  return status;
}

class Pieces {
 public:
  Pieces(const std::string& scope, const std::vector<PolicyCase>& cases, const std::vector<PolicyWindow>& windows,
         const PolicyRunners& runners, EvaluationLog& log)
      : scope_(scope), cases_(cases), windows_(windows), runners_(runners), log_(log) {}

  absl::Status Run() {
    for (const PolicyWindow& window : windows_) {
      total_ += NumTokens(window) * cases_.size();
    }
    for (size_t begin = 0; begin < windows_.size(); begin += kWindowsAPiece) {
      const size_t end = std::min(windows_.size(), begin + kWindowsAPiece);
      FQ_RETURN_IF_ERROR(RunGroup({windows_.begin() + static_cast<std::ptrdiff_t>(begin),
                                   windows_.begin() + static_cast<std::ptrdiff_t>(end)}));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<std::vector<PolicyOutcome>> Collect() const {
    std::vector<PolicyOutcome> outcomes;
    for (const PolicyCase& c : cases_) {
      outcomes.emplace_back();
      for (const PolicyWindow& window : windows_) {
        const std::string id = IdOf(scope_, c, window);
        FQ_ASSIGN_OR_RETURN(auto outcome, OutcomeFromJson(*log_.Find(id), NumTokens(window), id));
        outcomes.back().push_back(std::move(outcome));
      }
    }
    return outcomes;
  }

 private:
  absl::Status RunGroup(const std::vector<PolicyWindow>& group) {
    std::vector<PolicyCase> missing;
    uint64_t tokens = 0;
    size_t longest = 0;
    for (const PolicyWindow& window : group) {
      tokens += NumTokens(window);
      longest = std::max(longest, window.tokens.size());
    }
    for (const PolicyCase& c : cases_) {
      if (!std::all_of(group.begin(), group.end(),
                       [&](const PolicyWindow& window) { return log_.Find(IdOf(scope_, c, window)) != nullptr; })) {
        missing.push_back(c);
      }
    }
    done_ += tokens * (cases_.size() - missing.size());
    if (missing.empty()) {
      return absl::OkStatus();
    }
    FQ_ASSIGN_OR_RETURN(const size_t at_once, CasesAtOnce(runners_, missing.size(), longest));
    for (size_t begin = 0; begin < missing.size(); begin += at_once) {
      const size_t end = std::min(missing.size(), begin + at_once);
      FQ_RETURN_IF_ERROR(RunPiece(
          {missing.begin() + static_cast<std::ptrdiff_t>(begin), missing.begin() + static_cast<std::ptrdiff_t>(end)},
          group));
      done_ += tokens * (end - begin);
    }
    return absl::OkStatus();
  }

  absl::Status RunPiece(const std::vector<PolicyCase>& cases, const std::vector<PolicyWindow>& group) {
    FQ_ASSIGN_OR_RETURN(const auto outcomes, RunPolicies(cases, group, runners_, [&](uint64_t done) {
                          progress_.Update(done_ + done * cases.size(), total_, scope_);
                        }));
    for (size_t i = 0; i < cases.size(); ++i) {
      for (size_t w = 0; w < group.size(); ++w) {
        FQ_RETURN_IF_ERROR(log_.Add(IdOf(scope_, cases[i], group[w]), OutcomeToJson(outcomes[i][w])));
      }
    }
    return absl::OkStatus();
  }

  const std::string& scope_;
  const std::vector<PolicyCase>& cases_;
  const std::vector<PolicyWindow>& windows_;
  const PolicyRunners& runners_;
  EvaluationLog& log_;
  Progress progress_{"tokens"};
  uint64_t done_ = 0;
  uint64_t total_ = 0;
};

}  // namespace

std::string PieceId(const Piece& piece) {
  return absl::StrCat(piece.scope, "/", piece.policy, "/", piece.window, " of ", piece.tokens, " tokens");
}

std::optional<Piece> ParsePieceId(absl::string_view id) {
  const size_t first = id.find('/');
  const size_t last = id.rfind('/');
  const size_t of = id.rfind(" of ");
  if (first == last || of == absl::string_view::npos || of < last || !absl::ConsumeSuffix(&id, " tokens")) {
    return std::nullopt;
  }
  Piece piece{std::string(id.substr(0, first)), std::string(id.substr(first + 1, last - first - 1)), 0, 0};
  if (!absl::SimpleAtoi(id.substr(last + 1, of - last - 1), &piece.window) ||
      !absl::SimpleAtoi(id.substr(of + 4), &piece.tokens)) {
    return std::nullopt;
  }
  return piece;
}

absl::StatusOr<std::vector<PolicyOutcome>> Measure(const std::string& scope, const std::vector<PolicyCase>& cases,
                                                   const std::vector<PolicyWindow>& windows,
                                                   const PolicyRunners& runners, EvaluationLog& log) {
  Pieces pieces(scope, cases, windows, runners, log);
  FQ_RETURN_IF_ERROR(pieces.Run());
  return pieces.Collect();
}

}  // namespace flexquant::cli
