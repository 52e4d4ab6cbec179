#include "client/cli/svg_plot.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"

namespace flexquant::cli {
namespace {

constexpr int kLinearSteps = 5;

constexpr char kStyle[] = R"(<style>
  svg { --ground: #ffffff; --ink: #1f2328; --faint: #d0d7de; --c0: #0969da; --c1: #bc4c00; --c2: #1a7f37;
        --c3: #8250df; --c4: #cf222e; --c5: #9a6700; --c6: #bf3989; --c7: #57606a; background: var(--ground); }
  @media (prefers-color-scheme: dark) {
    svg { --ground: #0d1117; --ink: #e6edf3; --faint: #30363d; --c0: #58a6ff; --c1: #f0883e; --c2: #3fb950;
          --c3: #bc8cff; --c4: #ff7b72; --c5: #d29922; --c6: #f778ba; --c7: #8b949e; }
  }
  svg text { fill: var(--ink); font: 12px sans-serif; }
  svg .title { font-size: 16px; font-weight: bold; }
  svg .grid { stroke: var(--faint); }
  svg .line { fill: none; stroke-width: 2; }
</style>
)";

// Where an axis has its values.
std::vector<double> Steps(const SvgAxis& axis) {
  std::vector<double> steps;
  if (axis.log) {
    for (double power = std::ceil(std::log10(axis.low) - 1e-9); power <= std::log10(axis.high) + 1e-9; ++power) {
      steps.push_back(std::pow(10, power));
    }
  } else {
    for (int i = 0; i <= kLinearSteps; ++i) {
      steps.push_back(axis.low + (axis.high - axis.low) * i / kLinearSteps);
    }
  }
  return steps;
}

std::string StepText(const SvgAxis& axis, double value) {
  return axis.log ? absl::StrCat("1e", std::lround(std::log10(value))) : absl::StrFormat("%.4g", value);
}

}  // namespace

std::string EscapeMarkup(const std::string& text) {
  return absl::StrReplaceAll(text, {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}, {"\"", "&quot;"}});
}

std::string SvgImage(double width, double height, const std::string& content) {
  return absl::StrCat(
      absl::StrFormat(
          "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %.0f %.0f\" width=\"%.0f\" height=\"%.0f\">\n",
          width, height, width, height),
      kStyle, "<rect width=\"100%\" height=\"100%\" fill=\"var(--ground)\"/>\n", content, "</svg>\n");
}

std::string SvgText(double x, double y, const std::string& anchor, const std::string& text, const std::string& kind) {
  return absl::StrFormat("<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\" class=\"%s\">%s</text>\n", x, y, anchor, kind,
                         EscapeMarkup(text));
}

double SvgAxis::Fraction(double value) const {
  const double fraction =
      log ? std::log(std::max(value, low) / low) / std::log(high / low) : (value - low) / (high - low);
  return std::clamp(fraction, 0.0, 1.0);
}

SvgAxis SvgAxis::Around(const std::vector<double>& values, bool log) {
  double low = std::numeric_limits<double>::infinity();
  double high = -low;
  for (const double value : values) {
    if (std::isfinite(value) && (!log || value > 0)) {
      low = std::min(low, value);
      high = std::max(high, value);
    }
  }
  if (low > high) {
    low = high = 1;
  }
  if (!log) {
    return {low, high > low ? high : low + 1, false};
  }
  const double power = std::floor(std::log10(low));
  return {std::pow(10, power), std::pow(10, std::max(std::ceil(std::log10(high)), power + 1)), true};
}

std::string SvgPanel::Frame(const std::string& title, const std::string& label) const {
  std::string svg = SvgText(box_.left, box_.top - 8, "start", title);
  for (const double step : Steps(upwards_)) {
    const double y = Y(step);
    absl::StrAppendFormat(&svg, "<line class=\"grid\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/>\n", box_.left,
                          box_.left + box_.width, y, y);
    svg += SvgText(box_.left - 6, y + 4, "end", StepText(upwards_, step));
  }
  return svg + SvgText(box_.left + box_.width / 2, box_.top + box_.height + 34, "middle", label);
}

std::string SvgPanel::Tick(double across, const std::string& text) const {
  return SvgText(X(across), box_.top + box_.height + 18, "middle", text);
}

std::string SvgPanel::Ticks() const {
  std::string svg;
  for (const double step : Steps(across_)) {
    svg += Tick(step, StepText(across_, step));
  }
  return svg;
}

std::string SvgPanel::Line(const SvgPoints& points, size_t color) const {
  return Path(points, color, /*dashed=*/false) + Marks(points, color);
}

std::string SvgPanel::Marks(const SvgPoints& points, size_t color) const {
  std::string marks;
  for (const auto& [across, upwards] : points) {
    absl::StrAppendFormat(&marks, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"2.5\" fill=\"var(--c%d)\"/>\n", X(across),
                          Y(upwards), color);
  }
  return marks;
}

std::string SvgPanel::Path(const SvgPoints& points, size_t color, bool dashed) const {
  std::string path;
  for (const auto& [across, upwards] : points) {
    absl::StrAppendFormat(&path, "%.1f,%.1f ", X(across), Y(upwards));
  }
  return absl::StrFormat("<polyline class=\"line\"%s stroke=\"var(--c%d)\" points=\"%s\"/>\n",
                         dashed ? " stroke-dasharray=\"5 4\"" : "", color, path);
}

std::string SvgPanel::Whisker(double across, double low, double high, size_t color) const {
  return absl::StrFormat("<line stroke=\"var(--c%d)\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/>\n", color,
                         X(across), X(across), Y(low), Y(high));
}

std::string SvgLegend(double x, double y, size_t color, const std::string& name) {
  return absl::StrFormat("<rect x=\"%.1f\" y=\"%.1f\" width=\"12\" height=\"12\" fill=\"var(--c%d)\"/>\n", x, y,
                         color) +
         SvgText(x + 18, y + 10, "start", name);
}

}  // namespace flexquant::cli
