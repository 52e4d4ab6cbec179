#ifndef FLEXQUANT_COMMON_FORMATS_GGML_TYPE_H_
#define FLEXQUANT_COMMON_FORMATS_GGML_TYPE_H_

#include <cstdint>

namespace flexquant {

// Element type of a GGUF tensor; the numbers are the file's. Those listed can be dequantised.
enum class GgmlType : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ2_K = 10,
  kQ3_K = 11,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kBF16 = 30,
};

struct GgmlTypeTraits {
  GgmlType type;
  const char* name;
  int64_t block_elements;  // consecutive elements of a row that share scales
  int64_t block_bytes;
};

// Null for a type that is not listed above.
const GgmlTypeTraits* FindGgmlType(uint32_t type);

}  // namespace flexquant

#endif  // FLEXQUANT_COMMON_FORMATS_GGML_TYPE_H_
