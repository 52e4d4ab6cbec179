#include "client/cli/evaluation/report_plots.h"

#include <algorithm>
#include <array>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/svg_plot.h"

namespace flexquant::cli {
namespace {

constexpr double kWidth = 960;
constexpr double kMegabyte = 1e6;

struct Series {
  const char* kind;
  const char* name;
  bool line;
};
// In the order of their colours.
constexpr std::array<Series, 8> kSeries = {{{"budget", "budgets", true},
                                            {"ladder", "static mixed", true},
                                            {"uniform", "static uniform", true},
                                            {"shuffled", "shuffled", false},
                                            {"random", "random", false},
                                            {"dynamic", "dynamic", false},
                                            {"position", "position", false},
                                            {"oracle", "oracle", true}}};

double Value(const Json& figure) { return figure["value"].get<double>(); }

double Bound(const Json& figure, const char* end) {
  return figure[end].is_number() ? figure[end].get<double>() : figure["value"].get<double>();
}

}  // namespace

std::string KlAgainstBytesSvg(const Json& report) {
  std::vector<double> all_kl;
  std::vector<double> all_bytes;
  for (const Json& policy : report["policies"]) {
    all_kl.push_back(Value(policy["kl_mean"]));
    all_bytes.push_back(Value(policy["weight_bytes_a_token"]) / kMegabyte);
  }
  const SvgPanel panel({70, 70, 860, 380}, SvgAxis::Around(all_bytes, false), SvgAxis::Around(all_kl, true));
  std::string svg = panel.Frame("mean KL to 8 bits, nats, with 95 % intervals", "MB of weights read a token");
  svg += panel.Ticks();
  for (size_t color = 0; color < kSeries.size(); ++color) {
    SvgPoints points;
    for (const Json& policy : report["policies"]) {
      // No KL at all, as of 8 bits everywhere, has no place on a log axis.
      if (policy["kind"] == kSeries[color].kind && Value(policy["kl_mean"]) > 0) {
        const double bytes = Value(policy["weight_bytes_a_token"]) / kMegabyte;
        points.emplace_back(bytes, Value(policy["kl_mean"]));
        svg += panel.Whisker(bytes, Bound(policy["kl_mean"], "low"), Bound(policy["kl_mean"], "high"), color);
      }
    }
    std::sort(points.begin(), points.end());
    svg += kSeries[color].line ? panel.Line(points, color) : panel.Marks(points, color);
    svg += SvgLegend(70 + 110 * static_cast<double>(color), 20, color, kSeries[color].name);
  }
  return SvgImage(kWidth, 500, svg);
}

std::string PredictionSvg(const Json& report) {
  std::vector<double> all;
  for (const Json& policy : report["prediction"]) {
    for (const Json& tenth : policy["tenths"]) {
      all.insert(all.end(), {tenth["predicted"].get<double>(), Value(tenth["measured"])});
    }
  }
  const SvgAxis axis = SvgAxis::Around(all, true);
  const SvgPanel panel({70, 70, 560, 380}, axis, axis);
  std::string svg = panel.Frame("KL measured, in tenths of the tokens by what was predicted", "KL predicted, nats");
  svg += panel.Ticks() + panel.Path({{axis.low, axis.low}, {axis.high, axis.high}}, 7, /*dashed=*/true);
  size_t color = 0;
  for (const Json& policy : report["prediction"]) {
    SvgPoints points;
    for (const Json& tenth : policy["tenths"]) {
      const double predicted = tenth["predicted"].get<double>();
      points.emplace_back(predicted, Value(tenth["measured"]));
      svg += panel.Whisker(predicted, Bound(tenth["measured"], "low"), Bound(tenth["measured"], "high"), color);
    }
    svg += panel.Line(points, color);
    svg += SvgLegend(650, 90 + 22 * static_cast<double>(color), color,
                     absl::StrCat(policy["policy"].get<std::string>(), ": ",
                                  absl::StrFormat("%.4f expected, %.4f measured", policy["predicted"].get<double>(),
                                                  policy["measured"].get<double>())));
    color = (color + 1) % 7;
  }
  return SvgImage(kWidth, 500, svg);
}

std::string TraceSvg(const Json& report) {
  const Json& trace = report["trace"];
  const auto points = [&trace](const char* field) {
    SvgPoints made;
    for (size_t i = 0; i < trace[field].size(); ++i) {
      made.emplace_back(static_cast<double>(i), trace[field][i].get<double>());
    }
    return made;
  };
  const SvgPoints bits = points("bits");
  const SvgPoints entropy = points("entropy");
  const SvgAxis across{0, std::max(1.0, static_cast<double>(bits.size() - 1))};
  std::vector<double> entropies = {0, 1};
  for (const auto& [at, nats] : entropy) {
    entropies.push_back(nats);
  }
  const SvgPanel upper({70, 40, 860, 150}, across, {3, 8});
  const SvgPanel lower({70, 240, 860, 150}, across, SvgAxis::Around(entropies, false));
  return SvgImage(kWidth, 440,
                  upper.Frame("mean bits a weight of each token", "") + upper.Path(bits, 0, false) +
                      lower.Frame("entropy of the distribution that came out, nats", "token") + lower.Ticks() +
                      lower.Path(entropy, 1, false));
}

}  // namespace flexquant::cli
