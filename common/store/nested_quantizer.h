#ifndef FLEXQUANT_COMMON_STORE_NESTED_QUANTIZER_H_
#define FLEXQUANT_COMMON_STORE_NESTED_QUANTIZER_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "common/nested_matrix.h"
#include "common/store/input_moments.h"

namespace flexquant {

// Owns the planes of one nested matrix.
struct NestedMatrixBuffers {
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t group_size = kDefaultGroupSize;
  std::vector<uint8_t> base3, bit4, bit5, bit6, bits78;
  std::vector<uint16_t> scales;

  // View into the buffers. Alignment of std::vector only (16 bytes); kernels use unaligned loads.
  NestedMatrix view() const;
};

// Quantises row-major `weights` [rows, cols], finite. Errors in column k count by importance[k] (FitGroup); empty = all
// alike. With `moments` of the inputs codes then move to where the errors of products are least (CodeDescent).
// Thread-safe. `num_threads` >= 1.
NestedMatrixBuffers QuantizeNested(absl::Span<const float> weights, int64_t rows, int64_t cols, int64_t group_size,
                                   int num_threads = 1, absl::Span<const float> importance = {},
                                   const InputMoments* moments = nullptr);

// The 8-bit codes of a tile: 16 rows, `stride` bytes apart, padded to whole units of columns.
void DecodeTile(const NestedMatrix& matrix, int64_t tile, uint8_t* codes, int64_t stride);

// Scale and zero of each group of one row, [groups][2].
void DecodeScales(const NestedMatrix& matrix, int64_t row, float* scales);

// Slow, plain decoding of one row at `bits` in {3, 4, 5, 6, 8} into out [cols]; the definition the kernels are tested
// against.
void DequantizeRow(const NestedMatrix& matrix, int64_t row, int bits, absl::Span<float> out);

}  // namespace flexquant

#endif  // FLEXQUANT_COMMON_STORE_NESTED_QUANTIZER_H_
