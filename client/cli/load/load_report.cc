#include "client/cli/load/load_report.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/svg_plot.h"

namespace flexquant::cli {
namespace {

Percentiles PercentilesOf(std::vector<double> values) {
  if (values.empty()) {
    return {};
  }
  std::sort(values.begin(), values.end());
  // The smallest value that at least this share of the sample does not exceed.
  const auto at = [&](double share) {
    const double rank = std::ceil(share * static_cast<double>(values.size()));
    return values[static_cast<size_t>(std::max(rank, 1.0)) - 1];
  };
  return {at(0.5), at(0.9), at(0.99), values.back()};
}

std::string OutcomeOf(const LoadResult& result) {
  return result.status.ok()  ? "ok"
         : result.cancelled ? "cancelled by the client"
                            : absl::StatusCodeToString(result.status.code());
}

double Milliseconds(absl::Duration duration) { return absl::ToDoubleMilliseconds(duration); }

Json ToJson(const Percentiles& percentiles) {
  return {{"p50", percentiles.p50}, {"p90", percentiles.p90}, {"p99", percentiles.p99}, {"max", percentiles.max}};
}

std::string Row(const char* name, const Percentiles& values) {
  return absl::StrFormat("  %-26s %9.1f %9.1f %9.1f %9.1f\n", name, values.p50, values.p90, values.p99, values.max);
}

// Share of the sample at or below each value.
SvgPoints Shares(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  SvgPoints points;
  for (size_t i = 0; i < values.size(); ++i) {
    points.emplace_back(values[i], static_cast<double>(i + 1) / static_cast<double>(values.size()));
  }
  return points;
}

}  // namespace

LoadSummary Summarize(const std::vector<LoadResult>& results, const LoadLimits& limits) {
  LoadSummary summary;
  summary.requests = results.size();
  std::vector<double> ttft;
  std::vector<double> tpot;
  std::vector<double> gap;
  std::vector<double> late;
  double tokens = 0;
  double answers = 0;
  double good = 0;
  double bytes = 0;
  double top_bytes = 0;
  for (const LoadResult& result : results) {
    ++summary.outcomes[OutcomeOf(result)];
    summary.seconds = std::max(summary.seconds, absl::ToDoubleSeconds(result.end));
    tokens += static_cast<double>(result.token_ids.size());
    late.push_back(Milliseconds(result.late));
    if (!result.status.ok()) {
      continue;
    }
    ++answers;
    ttft.push_back(Milliseconds(result.time_to_first_token));
    if (result.token_ids.size() > 1) {
      tpot.push_back(Milliseconds(result.time_per_output_token));
      gap.push_back(Milliseconds(result.longest_gap));
    }
    good += result.time_to_first_token <= limits.time_to_first_token &&
                    result.time_per_output_token <= limits.time_per_output_token
                ? 1
                : 0;
    bytes += result.weight_bytes_read;
    top_bytes += result.weight_bytes_top;
  }
  if (summary.seconds > 0) {
    summary.tokens_per_second = tokens / summary.seconds;
    summary.answers_per_second = answers / summary.seconds;
    summary.good_answers_per_second = good / summary.seconds;
  }
  summary.ttft_ms = PercentilesOf(std::move(ttft));
  summary.tpot_ms = PercentilesOf(std::move(tpot));
  summary.gap_ms = PercentilesOf(std::move(gap));
  summary.late_ms = PercentilesOf(std::move(late));
  summary.mean_bits = top_bytes > 0 ? 8 * bytes / top_bytes : 0;
  return summary;
}

Json ToJson(const LoadSummary& summary) {
  Json json;
  json["requests"] = summary.requests;
  json["outcomes"] = summary.outcomes;
  json["seconds"] = summary.seconds;
  json["tokens_per_second"] = summary.tokens_per_second;
  json["answers_per_second"] = summary.answers_per_second;
  json["good_answers_per_second"] = summary.good_answers_per_second;
  json["time_to_first_token_ms"] = ToJson(summary.ttft_ms);
  json["time_per_output_token_ms"] = ToJson(summary.tpot_ms);
  json["longest_gap_ms"] = ToJson(summary.gap_ms);
  json["sent_late_ms"] = ToJson(summary.late_ms);
  json["mean_bits"] = summary.mean_bits;
  return json;
}

std::string ToText(const LoadSummary& summary) {
  std::string text = absl::StrFormat(
      "%d requests in %.1f s: %.1f tokens/s, %.2f answers/s, %.2f of them within limits\n", summary.requests,
      summary.seconds, summary.tokens_per_second, summary.answers_per_second, summary.good_answers_per_second);
  for (const auto& [outcome, count] : summary.outcomes) {
    absl::StrAppend(&text, absl::StrFormat("  %-26s %9d\n", outcome, count));
  }
  absl::StrAppend(&text, absl::StrFormat("  %-26s %9s %9s %9s %9s\n", "ms", "p50", "p90", "p99", "max"));
  absl::StrAppend(&text, Row("time to first token", summary.ttft_ms), Row("time per output token", summary.tpot_ms),
                  Row("longest gap", summary.gap_ms), Row("sent late", summary.late_ms));
  absl::StrAppend(&text, absl::StrFormat("  mean bits (bytes read)     %9.3f\n", summary.mean_bits));
  return text;
}

std::string LoadPlot(const std::vector<LoadResult>& results, const LoadSummary& summary) {
  std::vector<double> ttft;
  std::vector<double> tpot;
  SvgPoints ttft_over_time;
  SvgPoints bits_over_time;
  for (const LoadResult& result : results) {
    if (!result.status.ok()) {
      continue;
    }
    ttft.push_back(Milliseconds(result.time_to_first_token));
    ttft_over_time.emplace_back(absl::ToDoubleSeconds(result.arrival), ttft.back());
    if (result.token_ids.size() > 1) {
      tpot.push_back(Milliseconds(result.time_per_output_token));
    }
    bits_over_time.emplace_back(absl::ToDoubleSeconds(result.arrival), result.mean_bits);
  }
  const auto box = [](int column, int row) { return SvgBox{70.0 + 470 * column, 90.0 + 270 * row, 390, 190}; };
  std::string svg = SvgText(480, 40, "middle",
                            absl::StrFormat("%d requests, %.1f tokens/s, %.2f mean bits", summary.requests,
                                            summary.tokens_per_second, summary.mean_bits),
                            "title");
  const auto share = [&](const SvgBox& at, const std::vector<double>& values, const std::string& title, size_t color) {
    const SvgPanel panel(at, SvgAxis::Around(values, /*log=*/true), {0, 1});
    return panel.Frame(title, "ms") + panel.Ticks() + panel.Path(Shares(values), color, /*dashed=*/false);
  };
  svg += share(box(0, 0), ttft, "share of answers by time to first token", 0);
  svg += share(box(1, 0), tpot, "share of answers by time per output token", 1);
  const SvgAxis time{0, std::max(summary.seconds, 1.0)};
  const SvgPanel first(box(0, 1), time, SvgAxis::Around(ttft, /*log=*/true));
  svg += first.Frame("time to first token, ms", "arrival, s") + first.Ticks() + first.Marks(ttft_over_time, 0);
  const SvgPanel bits(box(1, 1), time, {3, 8});
  svg += bits.Frame("mean bits of an answer", "arrival, s") + bits.Ticks() + bits.Marks(bits_over_time, 2);
  return SvgImage(960, 620, svg);
}

}  // namespace flexquant::cli
