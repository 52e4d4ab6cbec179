#include "client/cli/calibration_plot.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "common/precision.h"

namespace flexquant::cli {
namespace {

constexpr double kWidth = 960;
constexpr double kHeight = 900;
// Smaller divergences are drawn at the lower edge: they are noise.
constexpr double kSmallestKl = 1e-7;
constexpr std::array<const char*, 5> kKindNames = {"qkv", "o", "gate_up", "down", "lm_head"};

constexpr char kStyle[] = R"(<style>
  svg { --ground: #ffffff; --ink: #1f2328; --faint: #d0d7de; --c0: #0969da; --c1: #bc4c00; --c2: #1a7f37;
        --c3: #8250df; --c4: #cf222e; background: var(--ground); }
  @media (prefers-color-scheme: dark) {
    svg { --ground: #0d1117; --ink: #e6edf3; --faint: #30363d; --c0: #58a6ff; --c1: #f0883e; --c2: #3fb950;
          --c3: #bc8cff; --c4: #ff7b72; }
  }
  text { fill: var(--ink); font: 12px sans-serif; }
  .title { font-size: 16px; font-weight: bold; }
  .grid { stroke: var(--faint); }
  .line { fill: none; stroke-width: 2; }
</style>
)";

struct Box {
  double left = 0;
  double top = 0;
  double width = 0;
  double height = 0;
};

struct Range {
  double low = 0;
  double high = 1;

  double Fraction(double value) const { return (value - low) / (high - low); }
};

double LogKl(double kl) { return std::log10(std::max(kl, kSmallestKl)); }

std::string Escaped(const std::string& text) {
  return absl::StrReplaceAll(text, {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}});
}

std::string Text(double x, double y, const std::string& anchor, const std::string& text, const std::string& kind = "") {
  return absl::StrFormat("<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\" class=\"%s\">%s</text>\n", x, y, anchor, kind,
                         Escaped(text));
}

// One panel: KL upwards on a log scale, anything across.
class Panel {
 public:
  Panel(const Box& box, Range across, Range log_kl) : box_(box), across_(across), log_kl_(log_kl) {}

  // Grid lines at the powers of ten.
  std::string Frame(const std::string& title, const std::string& label) const {
    std::string svg = Text(box_.left, box_.top - 8, "start", title);
    for (int power = static_cast<int>(log_kl_.low); power <= static_cast<int>(log_kl_.high); ++power) {
      const double y = Y(power);
      absl::StrAppendFormat(&svg, "<line class=\"grid\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/>\n", box_.left,
                            box_.left + box_.width, y, y);
      svg += Text(box_.left - 6, y + 4, "end", absl::StrCat("1e", power));
    }
    return svg + Text(box_.left + box_.width / 2, box_.top + box_.height + 34, "middle", label);
  }

  std::string Tick(double across, const std::string& text) const {
    return Text(X(across), box_.top + box_.height + 18, "middle", text);
  }

  // Points joined by a line, each marked.
  std::string Line(const std::vector<std::pair<double, double>>& points, size_t color) const {
    std::string path;
    std::string marks;
    for (const auto& [across, kl] : points) {
      absl::StrAppendFormat(&path, "%.1f,%.1f ", X(across), Y(LogKl(kl)));
      absl::StrAppendFormat(&marks, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"2.5\" fill=\"var(--c%d)\"/>\n", X(across),
                            Y(LogKl(kl)), color);
    }
    return absl::StrFormat("<polyline class=\"line\" stroke=\"var(--c%d)\" points=\"%s\"/>\n", color, path) + marks;
  }

 private:
  double X(double across) const { return box_.left + box_.width * across_.Fraction(across); }
  double Y(double log_kl) const { return box_.top + box_.height * (1 - log_kl_.Fraction(log_kl)); }

  Box box_;
  Range across_;
  Range log_kl_;
};

// Whole powers of ten around the positive values.
Range LogRange(const std::vector<double>& values) {
  double low = 0;
  double high = -100;
  for (const double value : values) {
    if (value > 0) {
      low = std::min(low, LogKl(value));
      high = std::max(high, LogKl(value));
    }
  }
  low = std::floor(low);
  return {low, std::max(std::ceil(high), low + 1)};
}

std::string Legend() {
  std::string svg;
  for (size_t kind = 0; kind < kKindNames.size(); ++kind) {
    const double x = 420 + 90 * static_cast<double>(kind);
    absl::StrAppendFormat(&svg, "<rect x=\"%.1f\" y=\"40\" width=\"12\" height=\"12\" fill=\"var(--c%d)\"/>\n", x,
                          kind);
    svg += Text(x + 18, 50, "start", kKindNames[kind]);
  }
  return svg;
}

std::string SensitivityPanels(const Calibration& calibration) {
  const int num_layers = (static_cast<int>(calibration.sensitivities.size()) - 1) / kLayerGroupsPerBlock;
  std::vector<double> all;
  for (const GroupSensitivity& group : calibration.sensitivities) {
    for (const Sensitivity& sensitivity : group) {
      all.push_back(sensitivity.mean_kl);
    }
  }
  const Range log_kl = LogRange(all);
  std::string svg;
  for (size_t w = 0; w < kLowerPrecisions.size(); ++w) {
    const Box box{70 + 470 * static_cast<double>(w % 2), 90 + 270 * static_cast<double>(w / 2), 390, 190};
    // The head stands behind the last block.
    const Panel panel(box, {-0.5, num_layers + 1.0}, log_kl);
    svg += panel.Frame(absl::StrCat("one layer group at ", kLowerPrecisions[w], " bits: mean KL, nats"), "block");
    const int step = std::max(1, num_layers / 8);
    for (int layer = 0; layer + step / 2 < num_layers; layer += step) {
      svg += panel.Tick(layer, absl::StrCat(layer));
    }
    svg += panel.Tick(num_layers + 0.5, "head");
    for (int kind = 0; kind < kLayerGroupsPerBlock; ++kind) {
      std::vector<std::pair<double, double>> points;
      for (int layer = 0; layer < num_layers; ++layer) {
        const auto group = static_cast<size_t>(LayerGroupIndex(layer, static_cast<LayerGroupKind>(kind)));
        points.emplace_back(layer, calibration.sensitivities[group][w].mean_kl);
      }
      svg += panel.Line(points, static_cast<size_t>(kind));
    }
    svg += panel.Line({{num_layers + 0.5, calibration.sensitivities.back()[w].mean_kl}}, kLayerGroupsPerBlock);
  }
  return svg;
}

std::string LadderPanel(const Calibration& calibration) {
  // The top precision, whose KL is zero, has no place on a log scale.
  std::vector<std::pair<double, double>> measured;
  std::vector<std::pair<double, double>> predicted;
  std::vector<double> all;
  for (const Rung& rung : calibration.rungs) {
    const double megabytes = static_cast<double>(rung.bytes) * 1e-6;
    if (rung.mean_kl > 0) {
      measured.emplace_back(megabytes, rung.mean_kl);
      predicted.emplace_back(megabytes, rung.predicted_kl);
      all.insert(all.end(), {rung.mean_kl, rung.predicted_kl});
    }
  }
  const double low = static_cast<double>(calibration.rungs.front().bytes) * 1e-6;
  const double high = std::max(low * 1.01, static_cast<double>(calibration.rungs.back().bytes) * 1e-6);
  const Panel panel({70, 640, 860, 200}, {low - (high - low) * 0.02, high}, LogRange(all));
  std::string svg = panel.Frame("ladder: mean KL, nats, measured (blue) and predicted (orange)", "MB read a token");
  constexpr int kTicks = 6;
  for (int i = 0; i < kTicks; ++i) {
    const double at = low + (high - low) * i / (kTicks - 1);
    svg += panel.Tick(at, absl::StrFormat("%.4g", at));
  }
  return svg + panel.Line(predicted, 1) + panel.Line(measured, 0);
}

}  // namespace

std::string CalibrationSvg(const Calibration& calibration, const std::string& title) {
  std::string svg = absl::StrFormat(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %.0f %.0f\" width=\"%.0f\" height=\"%.0f\">\n", kWidth,
      kHeight, kWidth, kHeight);
  svg += kStyle;
  svg += "<rect width=\"100%\" height=\"100%\" fill=\"var(--ground)\"/>\n";
  svg += Text(24, 28, "start", title, "title");
  svg += Text(24, 50, "start",
              absl::StrCat("sensitivities on ", calibration.positions, " positions of ", calibration.text_name));
  return svg + Legend() + SensitivityPanels(calibration) + LadderPanel(calibration) + "</svg>\n";
}

}  // namespace flexquant::cli
