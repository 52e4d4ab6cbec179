#include "client/cli/calibration_plot.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/svg_plot.h"
#include "common/precision.h"

namespace flexquant::cli {
namespace {

constexpr double kWidth = 960;
constexpr double kHeight = 900;
// Smaller divergences are drawn at the lower edge: they are noise.
constexpr double kSmallestKl = 1e-7;

SvgAxis KlAxis(std::vector<double> values) {
  std::erase_if(values, [](double kl) { return kl < kSmallestKl; });
  return SvgAxis::Around(values, /*log=*/true);
}

std::string Legend() {
  std::string svg;
  for (size_t kind = 0; kind < kLayerGroupKindNames.size(); ++kind) {
    svg += SvgLegend(420 + 90 * static_cast<double>(kind), 40, kind, kLayerGroupKindNames[kind]);
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
  const SvgAxis axis = KlAxis(all);
  std::string svg;
  for (size_t w = 0; w < kLowerPrecisions.size(); ++w) {
    const SvgBox box{70 + 470 * static_cast<double>(w % 2), 90 + 270 * static_cast<double>(w / 2), 390, 190};
    // The head stands behind the last block.
    const SvgPanel panel(box, {-0.5, num_layers + 1.0}, axis);
    svg += panel.Frame(absl::StrCat("one layer group at ", kLowerPrecisions[w], " bits: mean KL, nats"), "block");
    const int step = std::max(1, num_layers / 8);
    for (int layer = 0; layer + step / 2 < num_layers; layer += step) {
      svg += panel.Tick(layer, absl::StrCat(layer));
    }
    svg += panel.Tick(num_layers + 0.5, "head");
    for (int kind = 0; kind < kLayerGroupsPerBlock; ++kind) {
      SvgPoints points;
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
  SvgPoints measured;
  SvgPoints predicted;
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
  const SvgPanel panel({70, 640, 860, 200}, {low - (high - low) * 0.02, high}, KlAxis(all));
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
  const std::string heading =
      SvgText(24, 28, "start", title, "title") +
      SvgText(24, 50, "start",
              absl::StrCat("sensitivities on ", calibration.positions, " positions of ", calibration.text_name));
  return SvgImage(kWidth, kHeight, heading + Legend() + SensitivityPanels(calibration) + LadderPanel(calibration));
}

}  // namespace flexquant::cli
