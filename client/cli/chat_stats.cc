#include "client/cli/chat_stats.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace flexquant::cli {

ChatStats::Figures ChatStats::Of(const Answer& answer) {
  const v1::Usage& usage = answer.response.finished().usage();
  const v1::PrecisionReport& report = answer.response.finished().precision();
  Figures figures;
  figures.answers = 1;
  figures.prompt_tokens = usage.prompt_tokens();
  figures.tokens = usage.generated_tokens();
  const auto tokens = static_cast<double>(figures.tokens);
  figures.bits = report.mean_bits() * tokens;
  if (figures.tokens > 1) {
    figures.decoded = figures.tokens - 1;
    figures.decode_seconds =
        static_cast<double>(usage.time_per_output_token_ns()) * 1e-9 * static_cast<double>(figures.decoded);
  }
  if (report.has_predicted_mean_kl()) {
    figures.predicted = figures.tokens;
    figures.predicted_kl = report.predicted_mean_kl() * tokens;
  }
  if (report.has_audit()) {
    figures.audited = report.audit().tokens();
    figures.audited_kl = report.audit().mean_kl() * report.audit().tokens();
  }
  return figures;
}

void ChatStats::Add(const Answer& answer) {
  last_ = Of(answer);
  all_.answers += last_.answers;
  all_.prompt_tokens += last_.prompt_tokens;
  all_.tokens += last_.tokens;
  all_.bits += last_.bits;
  all_.decode_seconds += last_.decode_seconds;
  all_.decoded += last_.decoded;
  all_.predicted_kl += last_.predicted_kl;
  all_.predicted += last_.predicted;
  all_.audited_kl += last_.audited_kl;
  all_.audited += last_.audited;
}

std::string ChatStats::Row(const char* name, const Figures& figures) {
  const auto mean = [](double sum, double count, int decimals) {
    return count > 0 ? absl::StrFormat("%.*f", decimals, sum / count) : std::string("-");
  };
  std::string audited = mean(figures.audited_kl, static_cast<double>(figures.audited), 4);
  if (figures.audited > 0) {
    absl::StrAppend(&audited, " on ", figures.audited);
  }
  return absl::StrFormat("%-12s %7d %7d %6s %9s %13s %s\n", name, figures.prompt_tokens, figures.tokens,
                         mean(figures.bits, static_cast<double>(figures.tokens), 2),
                         mean(static_cast<double>(figures.decoded), figures.decode_seconds, 1),
                         mean(figures.predicted_kl, static_cast<double>(figures.predicted), 4), audited);
}

std::string ChatStats::Text() const {
  if (all_.answers == 0) {
    return "no answer yet\n";
  }
  return absl::StrCat(absl::StrFormat("%-12s %7s %7s %6s %9s %13s %s\n", "", "prompt", "answer", "bits", "tokens/s",
                                      "predicted KL", "audited KL"),
                      Row("last answer", last_), Row(absl::StrCat("all ", all_.answers).c_str(), all_));
}

}  // namespace flexquant::cli
