#ifndef FLEXQUANT_COMMON_CALIBRATION_LADDER_BUILDER_H_
#define FLEXQUANT_COMMON_CALIBRATION_LADDER_BUILDER_H_

#include <array>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "common/calibration/calibration.h"
#include "common/precision.h"

namespace flexquant {

using GroupBytes = std::array<uint64_t, kPrecisions.size()>;  // that a decode step reads at each of kPrecisions

// Plans from the top precision down to the lowest everywhere, each one step below the one before: the layer group and
// its next lower precision whose predicted KL grows least per byte saved (the first of equals). Rungs are not measured.
// Both spans are [num_layer_groups].
std::vector<Rung> GreedyPath(absl::Span<const GroupSensitivity> sensitivities, absl::Span<const GroupBytes> bytes);

// At most `count` >= 2 rungs of a path: both ends, and those nearest to even ratios of bytes between them.
std::vector<Rung> ThinOut(const std::vector<Rung>& path, int count);

// Measured rungs in any order -> those that no cheaper one equals or beats in mean KL, from cheapest to dearest. The
// dearest always stays.
std::vector<Rung> MonotoneRungs(std::vector<Rung> rungs);

}  // namespace flexquant

#endif  // FLEXQUANT_COMMON_CALIBRATION_LADDER_BUILDER_H_
