#include "common/calibration/ladder_builder.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>

#include "common/check.h"

namespace flexquant {
namespace {

// Predicted KL of one layer group at kPrecisions[level].
double KlAt(const GroupSensitivity& sensitivity, size_t level) {
  return level < kLowerPrecisions.size() ? sensitivity[level].mean_kl : 0;
}

Rung MakeRung(absl::Span<const size_t> levels, absl::Span<const GroupSensitivity> sensitivities,
              absl::Span<const GroupBytes> bytes) {
  Rung rung;
  for (size_t group = 0; group < levels.size(); ++group) {
    rung.plan.bits.push_back(static_cast<uint8_t>(kPrecisions[levels[group]]));
    rung.bytes += bytes[group][levels[group]];
    rung.predicted_kl += KlAt(sensitivities[group], levels[group]);
  }
  return rung;
}

}  // namespace

std::vector<Rung> GreedyPath(absl::Span<const GroupSensitivity> sensitivities, absl::Span<const GroupBytes> bytes) {
  FQ_CHECK(sensitivities.size() == bytes.size());
  std::vector<size_t> levels(sensitivities.size(), kPrecisions.size() - 1);
  std::vector<Rung> path = {MakeRung(levels, sensitivities, bytes)};
  while (true) {
    size_t best = levels.size();
    double best_cost = std::numeric_limits<double>::infinity();
    for (size_t group = 0; group < levels.size(); ++group) {
      const size_t level = levels[group];
      if (level == 0) {
        continue;
      }
      const double kl = KlAt(sensitivities[group], level - 1) - KlAt(sensitivities[group], level);
      const double cost = kl / static_cast<double>(bytes[group][level] - bytes[group][level - 1]);
      if (cost < best_cost) {
        best = group;
        best_cost = cost;
      }
    }
    if (best == levels.size()) {
      return path;
    }
    --levels[best];
    path.push_back(MakeRung(levels, sensitivities, bytes));
  }
}

std::vector<Rung> ThinOut(const std::vector<Rung>& path, int count) {
  FQ_CHECK(count >= 2 && !path.empty());
  const double log_first = std::log(static_cast<double>(path.front().bytes));
  const double log_last = std::log(static_cast<double>(path.back().bytes));
  std::vector<Rung> kept;
  for (int i = 0; i < count; ++i) {
    const double target = log_first + (log_last - log_first) * i / (count - 1);
    const auto distance = [&](const Rung& rung) {
      return std::fabs(std::log(static_cast<double>(rung.bytes)) - target);
    };
    const auto nearest = std::min_element(path.begin(), path.end(),
                                          [&](const Rung& a, const Rung& b) { return distance(a) < distance(b); });
    if (kept.empty() || nearest->bytes < kept.back().bytes) {
      kept.push_back(*nearest);
    }
  }
  return kept;
}

std::vector<Rung> MonotoneRungs(std::vector<Rung> rungs) {
  std::sort(rungs.begin(), rungs.end(), [](const Rung& a, const Rung& b) { return a.bytes < b.bytes; });
  std::vector<Rung> kept;
  for (size_t i = 0; i < rungs.size(); ++i) {
    const bool dearest = i + 1 == rungs.size();
    while (dearest && !kept.empty() && kept.back().mean_kl <= rungs[i].mean_kl) {
      kept.pop_back();
    }
    if (kept.empty() || rungs[i].mean_kl < kept.back().mean_kl) {
      kept.push_back(rungs[i]);
    }
  }
  return kept;
}

}  // namespace flexquant
