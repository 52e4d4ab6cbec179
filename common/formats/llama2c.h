#ifndef FLEXQUANT_COMMON_FORMATS_LLAMA2C_H_
#define FLEXQUANT_COMMON_FORMATS_LLAMA2C_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/model_source.h"

namespace flexquant {

// llama2.c's tok*.bin: SentencePiece BPE pieces by id, as SentencePiece writes them (U+2581 for a space), and scores.
struct Llama2cVocabulary {
  std::vector<std::string> pieces;
  std::vector<float> scores;
};

// Reads a vocabulary of exactly `vocab_size` pieces. DATA_LOSS (truncated, too long) or INVALID_ARGUMENT (length or
// score out of range) name `path` and the token.
absl::StatusOr<Llama2cVocabulary> ParseLlama2cVocabulary(absl::Span<const uint8_t> bytes, int64_t vocab_size,
                                                         const std::string& path);

// Opens a version 0 checkpoint: seven int32, then fp32 tensors; every shape follows from the header and the file's size
// must be exactly theirs. The tokenizer is `tokenizer_path`, or tok<vocabulary>.bin, tokenizer.bin or the only tok*.bin
// beside it. NOT_FOUND, INVALID_ARGUMENT or DATA_LOSS name the path and what is wrong.
absl::StatusOr<std::unique_ptr<ModelSource>> OpenLlama2cSource(const std::string& path,
                                                               const std::string& tokenizer_path);

}  // namespace flexquant

#endif  // FLEXQUANT_COMMON_FORMATS_LLAMA2C_H_
