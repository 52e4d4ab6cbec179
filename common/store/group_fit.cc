#include "common/store/group_fit.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "common/check.h"
#include "common/half.h"

namespace flexquant {
namespace {

constexpr int64_t kMaxGroup = 128;

// Range of the codes over the range of the weights. The middle ones have room for the ends of the range to lie in the
// middle of the outer cells of 6, 5 and 4 bits, where separate round-to-nearest has them.
constexpr std::array<float, 5> kWidenings = {1.0F, 255.0F / 252, 255.0F / 248, 255.0F / 240, 1.08F};
constexpr int kShifts = 16;

// Keeps zero below 2048, where fp16 holds it to a code: a group that lies far from 0 is resolved to 1/1800 of its
// distance at best.
constexpr float kMaxZero = 1800;

float RoundUpToHalf(float value) {
  const uint16_t half = FloatToHalf(value);
  return HalfToFloat(HalfToFloat(half) < value ? static_cast<uint16_t>(half + 1) : half);
}

// Errors of all widths for a weight at `position` on the scale of codes.
inline float PositionCost(float position) {
  const int code = CodeAt(position);
  float cost = 0;
  for (const NestedWidth& width : kNestedWidths) {
    const float error = static_cast<float>(code & width.mask) + (width.mid - position);
    cost += width.weight * error * error;
  }
  return cost;
}

float TotalCost(const float* positions, const float* importance, size_t count, float zero) {
  // Independent sums: the compiler may not reorder one sum of floats, but it does put these in vector lanes.
  constexpr size_t kLanes = 8;
  std::array<float, kLanes> lanes{};
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) {
      lanes[lane] += importance[i + lane] * PositionCost(positions[i + lane] + zero);
    }
  }
  for (; i < count; ++i) {
    lanes[0] += importance[i] * PositionCost(positions[i] + zero);
  }
  float total = 0;
  for (const float lane : lanes) {
    total += lane;
  }
  return total;
}

}  // namespace

GroupFit FitGroup(absl::Span<const float> weights, absl::Span<const float> importance) {
  FQ_CHECK(importance.empty() || importance.size() == weights.size());
  const auto [low, high] = std::minmax_element(weights.begin(), weights.end());
  const float magnitude = std::max(std::abs(*low), std::abs(*high));
  if (magnitude == 0) {
    return {};
  }
  const float narrowest = std::max(*high / kMaxCode - *low / kMaxCode, magnitude / kMaxZero);
  GroupFit best;
  float best_cost = std::numeric_limits<float>::infinity();
  std::array<float, kMaxGroup> positions;
  std::array<float, kMaxGroup> factors;
  factors.fill(1.0F);
  std::copy(importance.begin(), importance.end(), factors.begin());
  for (const float widening : kWidenings) {
    // Rounded up: a scale that is too small clips, and among the subnormal halves by much.
    const float scale = RoundUpToHalf(std::min(narrowest * widening, kMaxHalf));
    const float inverse = 1 / scale;
    for (size_t i = 0; i < weights.size(); ++i) {
      positions[i] = weights[i] * inverse;
    }
    const float slack = std::max(kMaxCode - (*high * inverse - *low * inverse), 0.0F);
    const int shifts = widening == 1 ? 1 : kShifts;
    for (int shift = 0; shift < shifts; ++shift) {
      const float fraction = shifts == 1 ? 0.5F : static_cast<float>(shift) / (kShifts - 1);
      const float wanted = std::clamp(fraction * slack - *low * inverse, -2048.0F, 2048.0F);
      const float zero = HalfToFloat(FloatToHalf(wanted));
      const float cost = scale * scale * TotalCost(positions.data(), factors.data(), weights.size(), zero);
      if (cost < best_cost) {
        best_cost = cost;
        best = {scale, zero, cost};
      }
    }
  }
  return best;
}

}  // namespace flexquant
