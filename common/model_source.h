#ifndef FLEXQUANT_COMMON_MODEL_SOURCE_H_
#define FLEXQUANT_COMMON_MODEL_SOURCE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/model_config.h"
#include "common/nested_matrix.h"

namespace flexquant {

// A model as published (GGUF, Hugging Face folder, llama2.c), read tensor by tensor in Hugging Face's names and
// conventions, whatever the source's: "model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight",
// "model.layers.0.self_attn.q_norm.weight", "model.layers.0.input_layernorm.weight", "model.norm.weight",
// "lm_head.weight" (absent when tied), ... Rotary pairs are (i, i + head_dim / 2). Not thread-safe.
class ModelSource {
 public:
  virtual ~ModelSource() = default;

  virtual const ModelConfig& config() const = 0;
  virtual bool HasTensor(const std::string& name) const = 0;
  // Row-major values in fp32; a matrix is [out, in]. NOT_FOUND, DATA_LOSS (NaN or infinite values, short file) or
  // INVALID_ARGUMENT (shape is not `rows` x `cols`) name the tensor. A vector has rows = 1.
  virtual absl::StatusOr<std::vector<float>> ReadTensor(const std::string& name, int64_t rows, int64_t cols) = 0;
  // Element type that loses nothing when it stores the source's values as reference: kF32 or kBF16.
  virtual Dtype ReferenceDtype() const = 0;
  // Writes the tokenizer's files into an existing folder: tokenizer.json + tokenizer_config.json (Hugging Face) or
  // tokenizer.gguf, a GGUF with metadata and no tensors (GGUF, llama2.c). Read back by Tokenizer::Load.
  virtual absl::Status SaveTokenizer(const std::string& folder) const = 0;
  // For example "GGUF, 272 tensors (Q4_1: 210, ...)"; goes into the store's provenance.
  virtual std::string Description() const = 0;
};

// Opens `path`: a GGUF file, a Hugging Face folder, or a llama2.c v0 checkpoint (*.bin, with `tokenizer_path` or a
// tok*.bin beside it). NOT_FOUND, INVALID_ARGUMENT or DATA_LOSS name the path and what is wrong with it.
absl::StatusOr<std::unique_ptr<ModelSource>> OpenModelSource(const std::string& path,
                                                             const std::string& tokenizer_path = "");

}  // namespace flexquant

#endif  // FLEXQUANT_COMMON_MODEL_SOURCE_H_
