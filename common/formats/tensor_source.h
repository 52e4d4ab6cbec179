#ifndef FLEXQUANT_COMMON_FORMATS_TENSOR_SOURCE_H_
#define FLEXQUANT_COMMON_FORMATS_TENSOR_SOURCE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/formats/ggml_type.h"
#include "common/model_config.h"
#include "common/model_source.h"

namespace flexquant {

// A tensor as it lies in a source's file.
struct StoredTensor {
  GgmlType type = GgmlType::kF32;
  std::vector<int64_t> shape;        // [n] or [rows, cols]
  absl::Span<const uint8_t> data;    // in a MappedFile; whole blocks of `type`, exactly the shape's
  int64_t interleaved_head_dim = 0;  // > 0: rows (or a bias's elements) of each head of this size pair neighbours
};
using StoredTensors = std::map<std::string, StoredTensor>;  // by Hugging Face's names

// What every source shares once its tensors are found; sources add their tokenizer and description. Not thread-safe.
class TensorSource : public ModelSource {
 public:
  const ModelConfig& config() const override { return config_; }
  bool HasTensor(const std::string& name) const override { return tensors_.count(name) > 0; }
  absl::StatusOr<std::vector<float>> ReadTensor(const std::string& name, int64_t rows, int64_t cols) override;
  Dtype ReferenceDtype() const override;

 protected:
  TensorSource(std::string path, ModelConfig config, StoredTensors tensors)
      : path_(std::move(path)), config_(std::move(config)), tensors_(std::move(tensors)) {}

  // INVALID_ARGUMENT or DATA_LOSS naming the first tensor that `config` needs and is absent or of another shape, or
  // that belongs to a block and `config` has no place for (ignoring it would change the model silently).
  absl::Status CheckTensors() const;
  // "272 tensors (F32: 61, Q4_1: 210, Q8_0: 1)".
  std::string CountTensors() const;

  const std::string& path() const { return path_; }

 private:
  std::string path_;
  ModelConfig config_;
  StoredTensors tensors_;
  mutable std::optional<Dtype> reference_dtype_;  // found on first use: it may read all values
};

// Sources by kind; OpenModelSource chooses. Same errors.
absl::StatusOr<std::unique_ptr<ModelSource>> OpenGgufSource(const std::string& path);
absl::StatusOr<std::unique_ptr<ModelSource>> OpenHuggingFaceSource(const std::string& folder);

}  // namespace flexquant

#endif  // FLEXQUANT_COMMON_FORMATS_TENSOR_SOURCE_H_
