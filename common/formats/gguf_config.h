#ifndef FLEXQUANT_COMMON_FORMATS_GGUF_CONFIG_H_
#define FLEXQUANT_COMMON_FORMATS_GGUF_CONFIG_H_

#include "absl/status/statusor.h"
#include "common/formats/gguf.h"
#include "common/model_config.h"

namespace flexquant {

// The config of a model from its GGUF metadata, and from the presence of tensors where metadata is silent (biases, q
// and k norms, a head of its own). Validated. UNIMPLEMENTED names an architecture or feature that is not supported;
// NOT_FOUND, INVALID_ARGUMENT or DATA_LOSS name the key or tensor.
absl::StatusOr<ModelConfig> ReadGgufConfig(const GgufFile& file);

}  // namespace flexquant

#endif  // FLEXQUANT_COMMON_FORMATS_GGUF_CONFIG_H_
