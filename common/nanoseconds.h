#ifndef FLEXQUANT_COMMON_NANOSECONDS_H_
#define FLEXQUANT_COMMON_NANOSECONDS_H_

#include <algorithm>
#include <cstdint>

#include "absl/time/time.h"

namespace flexquant {

// As protocols and counters carry times; one that a clock set back made negative counts as none.
inline uint64_t Nanoseconds(absl::Duration duration) {
  return static_cast<uint64_t>(std::max<int64_t>(0, absl::ToInt64Nanoseconds(duration)));
}

}  // namespace flexquant

#endif  // FLEXQUANT_COMMON_NANOSECONDS_H_
