#include "client/cli/report.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/terminal.h"

namespace flexquant::cli {
namespace {

constexpr int kBarCells = 30;

std::string Bar(double fraction) {
  std::string bar;
  for (int i = 0; i < std::max(1, static_cast<int>(std::lround(fraction * kBarCells))); ++i) {
    bar += "█";
  }
  return bar;
}

void AppendHistogram(const v1::PrecisionReport& report, bool color, std::string& text) {
  uint64_t total = 0;
  for (const auto& bar : report.histogram()) {
    total += bar.tokens();
  }
  for (const auto& bar : report.histogram()) {
    const double fraction = static_cast<double>(bar.tokens()) / static_cast<double>(total);
    absl::StrAppendFormat(&text, "  %2d bits  %5d tokens  %3.0f %%  ", bar.bits(), bar.tokens(), 100 * fraction);
    if (color) {
      absl::StrAppend(&text, BitsColor(bar.bits()));
    }
    absl::StrAppend(&text, Bar(fraction), color ? ColorEnd() : "", "\n");
  }
}

// What was asked for and what is expected of it; empty if the policy had no goal.
std::string GoalText(const v1::PrecisionReport& report) {
  if (report.has_max_mean_kl()) {
    return absl::StrFormat("  budget   %.3g nats of KL a token, predicted %.3g: %s\n", report.max_mean_kl(),
                           report.predicted_mean_kl(), report.within_budget() ? "within" : "exceeded");
  }
  if (report.has_target_mean_bits()) {
    return absl::StrFormat("  target   %.2f bits a weight, predicted KL %.3g nats a token\n", report.target_mean_bits(),
                           report.predicted_mean_kl());
  }
  return "";
}

std::string AuditText(const v1::AuditReport& audit) {
  std::string text = absl::StrFormat("  audit    KL %.3g nats measured on %d tokens", audit.mean_kl(), audit.tokens());
  if (audit.has_high_kl()) {
    absl::StrAppendFormat(&text, " (95 %%: %.3g to %.3g)", audit.low_kl(), audit.high_kl());
  }
  return text + "\n";
}

std::string CalibrationText(const v1::PrecisionReport& report) {
  switch (report.calibration()) {
    case v1::CALIBRATION_STATE_CALIBRATED:
      return "calibrated";
    case v1::CALIBRATION_STATE_UNCALIBRATED:
      return "uncalibrated: the ladder is the uniform widths, its quality is not measured";
    default:
      return "partial: summed up from the tokens that came";
  }
}

}  // namespace

std::string ReportText(const Answer& answer, bool color) {
  const v1::GenerationFinished& finished = answer.response.finished();
  const v1::PrecisionReport& report = finished.precision();
  const v1::Usage& usage = finished.usage();
  const std::string policy = report.policy().empty() ? "precision" : report.policy();
  std::string text = absl::StrFormat("%s: mean %.2f bits a weight, %d changes of plan (%s)\n", policy,
                                     report.mean_bits(), report.plan_changes(), CalibrationText(report));
  absl::StrAppend(&text, GoalText(report), report.has_audit() ? AuditText(report.audit()) : "");
  AppendHistogram(report, color, text);
  if (report.weight_bytes_top() > 0) {
    const auto read = static_cast<double>(report.weight_bytes_read());
    const auto top = static_cast<double>(report.weight_bytes_top());
    absl::StrAppendFormat(&text, "  read     %s of weights, %.0f %% of the %s at 8 bits\n", HumanBytes(read),
                          100 * read / top, HumanBytes(top));
  }
  absl::StrAppendFormat(&text, "  time     %.1f ms to the first token",
                        static_cast<double>(usage.time_to_first_token_ns()) * 1e-6);
  if (usage.time_per_output_token_ns() > 0) {
    const auto token_ns = static_cast<double>(usage.time_per_output_token_ns());
    absl::StrAppendFormat(&text, ", then %.1f ms a token (%.1f tokens/s)", token_ns * 1e-6, 1e9 / token_ns);
  }
  absl::StrAppendFormat(&text, "\n  tokens   %d prompt + %d answer, ", usage.prompt_tokens(), usage.generated_tokens());
  absl::StrAppend(&text, answer.complete ? absl::StrCat("ended by ", finished.stop_cause()) : "cut short", "\n");
  return text;
}

}  // namespace flexquant::cli
