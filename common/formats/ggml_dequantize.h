#ifndef FLEXQUANT_COMMON_FORMATS_GGML_DEQUANTIZE_H_
#define FLEXQUANT_COMMON_FORMATS_GGML_DEQUANTIZE_H_

#include <cstdint>

#include "absl/types/span.h"
#include "common/formats/ggml_type.h"

namespace flexquant {

// Expands `data`, whole blocks of `type`, into fp32. `out` has exactly the elements that `data` holds (a broken
// invariant otherwise). No alignment is needed. NaN and infinities pass through. Thread-safe.
void GgmlDequantize(GgmlType type, absl::Span<const uint8_t> data, absl::Span<float> out);

}  // namespace flexquant

#endif  // FLEXQUANT_COMMON_FORMATS_GGML_DEQUANTIZE_H_
