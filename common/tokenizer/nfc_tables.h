#ifndef FLEXQUANT_COMMON_TOKENIZER_NFC_TABLES_H_
#define FLEXQUANT_COMMON_TOKENIZER_NFC_TABLES_H_

#include <cstddef>
#include <cstdint>

namespace flexquant {

// `code_point` decomposes into `first` and, unless 0, `second`; both back into it if `composes`.
struct Decomposition {
  uint32_t code_point;
  uint32_t first;
  uint32_t second;
  bool composes;
};

struct CombiningRange {
  uint32_t first;
  uint32_t last;
  uint8_t combining_class;
};

// Sorted by code point. Hangul syllables and class 0 are left out.
extern const Decomposition kDecompositions[];
extern const size_t kNumDecompositions;
extern const CombiningRange kCombiningRanges[];
extern const size_t kNumCombiningRanges;

}  // namespace flexquant

#endif  // FLEXQUANT_COMMON_TOKENIZER_NFC_TABLES_H_
