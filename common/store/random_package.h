#ifndef FLEXQUANT_COMMON_STORE_RANDOM_PACKAGE_H_
#define FLEXQUANT_COMMON_STORE_RANDOM_PACKAGE_H_

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "common/model_config.h"

namespace flexquant {

// Writes a model package of `config`'s shape at `destination`, for benchmarks that need a file and no model: codes from
// a hash, the same ones in every tensor; weights uniform with a standard deviation of 0.018; norms 1, biases 0; no
// tokenizer. `progress` is called before each tensor with the bytes done and of all; an error that it returns ends it
// and leaves nothing behind. ALREADY_EXISTS if the destination exists; INVALID_ARGUMENT for a bad config.
absl::Status WriteRandomPackage(const ModelConfig& config, int64_t group_size, const std::string& destination,
                                const std::function<absl::Status(uint64_t done, uint64_t total)>& progress);

}  // namespace flexquant

#endif  // FLEXQUANT_COMMON_STORE_RANDOM_PACKAGE_H_
