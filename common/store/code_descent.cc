#include "common/store/code_descent.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "common/check.h"
#include "common/store/group_fit.h"

namespace flexquant {
namespace {

constexpr int kMaxSweeps = 4;
constexpr float kMaxDistance = 1.5F;  // of a code from its weight
// Added to the diagonal, as a share of it: moments are measured on some tokens only.
constexpr float kDamping = 0.05F;
// Of the widths beside FitGroup's weights. 8 bits are what the others are measured against, and what moving costs.
constexpr std::array<float, kNestedWidths.size()> kEmphasis = {1, 1, 1, 1, 2};

}  // namespace

CodeDescent::CodeDescent(const InputMoments& moments)
    : moments_(moments), gradients_(static_cast<size_t>(kNestedWidths.size()) * InputMoments::kMaxBlock) {}

void CodeDescent::Refine(absl::Span<const float> positions, absl::Span<const float> scales, absl::Span<uint8_t> codes) {
  FQ_CHECK(static_cast<int64_t>(codes.size()) == moments_.cols());
  FQ_CHECK(positions.size() == codes.size() && scales.size() == codes.size());
  for (int64_t block = 0; block < moments_.num_blocks(); ++block) {
    const int64_t begin = moments_.begin(block);
    RefineBlock(block, positions.data() + begin, scales.data() + begin, codes.data() + begin);
  }
}

void CodeDescent::RefineBlock(int64_t block, const float* positions, const float* scales, uint8_t* codes) {
  const int64_t n = moments_.size(block);
  std::fill_n(gradients_.begin(), static_cast<int64_t>(kNestedWidths.size()) * n, 0.0F);
  for (int64_t k = 0; k < n; ++k) {
    for (size_t b = 0; b < kNestedWidths.size() && scales[k] != 0; ++b) {
      const NestedWidth& width = kNestedWidths[b];
      AddError(block, k, b, scales[k] * (static_cast<float>(codes[k] & width.mask) + width.mid - positions[k]));
    }
  }
  for (int sweep = 0; sweep < kMaxSweeps; ++sweep) {
    bool moved = false;
    for (int64_t k = 0; k < n; ++k) {
      if (scales[k] != 0) {
        const int code = BestCode(block, k, codes[k], positions[k], scales[k]);
        moved |= code != codes[k];
        for (size_t b = 0; b < kNestedWidths.size() && code != codes[k]; ++b) {
          const int mask = kNestedWidths[b].mask;
          AddError(block, k, b, scales[k] * static_cast<float>((code & mask) - (codes[k] & mask)));
        }
        codes[k] = static_cast<uint8_t>(code);
      }
    }
    if (!moved) {
      break;
    }
  }
}

int CodeDescent::BestCode(int64_t block, int64_t k, int code, float position, float scale) const {
  const int64_t n = moments_.size(block);
  const float diagonal = (1 + kDamping) * moments_.row(block, k)[k];
  float best_change = 0;
  int best = code;
  for (const int other : {code - 1, code + 1}) {
    if (other < 0 || other > kMaxCode || std::fabs(static_cast<float>(other) - position) > kMaxDistance) {
      continue;
    }
    float change = 0;
    for (size_t b = 0; b < kNestedWidths.size(); ++b) {
      const int mask = kNestedWidths[b].mask;
      const float step = scale * static_cast<float>((other & mask) - (code & mask));
      const float gradient = gradients_[b * static_cast<size_t>(n) + static_cast<size_t>(k)];
      change += kNestedWidths[b].weight * kEmphasis[b] * step * (2 * gradient + step * diagonal);
    }
    if (change < best_change) {
      best_change = change;
      best = other;
    }
  }
  return best;
}

void CodeDescent::AddError(int64_t block, int64_t k, size_t width, float error) {
  if (error == 0) {
    return;
  }
  const int64_t n = moments_.size(block);
  const float* const row = moments_.row(block, k);
  float* const gradient = gradients_.data() + static_cast<int64_t>(width) * n;
  for (int64_t j = 0; j < n; ++j) {
    gradient[j] += error * row[j];
  }
  gradient[k] += kDamping * error * row[k];
}

}  // namespace flexquant
