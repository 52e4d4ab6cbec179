#ifndef FLEXQUANT_PROTO_EXECUTOR_LIMITS_H_
#define FLEXQUANT_PROTO_EXECUTOR_LIMITS_H_

#include <cstdint>

namespace flexquant {

// Most KV blocks that an executor may have, as flexquant/executor/v1/executor.proto says.
inline constexpr uint32_t kMaxKvBlocks = 1U << 24U;

}  // namespace flexquant

#endif  // FLEXQUANT_PROTO_EXECUTOR_LIMITS_H_
