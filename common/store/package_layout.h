#ifndef FLEXQUANT_COMMON_STORE_PACKAGE_LAYOUT_H_
#define FLEXQUANT_COMMON_STORE_PACKAGE_LAYOUT_H_

// Which tensors a model package holds, where they lie in model.safetensors and which source tensors they are made of:
// the one list that the converter writes by and the store checks by.

#include <cstdint>
#include <string>
#include <vector>

#include "common/model_config.h"
#include "common/nested_matrix.h"

namespace flexquant {

inline constexpr char kManifestFile[] = "flexquant.json";
inline constexpr char kConfigFile[] = "config.json";
inline constexpr char kWeightsFile[] = "model.safetensors";

// A part of a package tensor: source tensors stacked by rows.
struct SourcePart {
  std::string name;  // Hugging Face's
  int64_t rows = 0;  // 1 for a vector
};

// A nested matrix of the package.
struct MatrixSpec {
  std::string name;  // "layers.0.qkv"
  int64_t rows = 0;
  int64_t cols = 0;
  std::vector<SourcePart> parts;
};

// An fp32 vector of the package.
struct VectorSpec {
  std::string name;  // "layers.0.attention_norm"
  int64_t size = 0;
  std::vector<SourcePart> parts;  // `rows` elements each
};

// In the order of layer groups: blocks, then "lm_head" unless tied; "embedding" last.
std::vector<MatrixSpec> PackageMatrices(const ModelConfig& config);
std::vector<VectorSpec> PackageVectors(const ModelConfig& config);

// One tensor of model.safetensors.
struct PackageTensor {
  std::string name;
  std::string dtype;  // "U8", "F16", "F32", "BF16"
  std::vector<int64_t> shape;
  uint64_t bytes = 0;
  uint64_t offset = 0;  // from the end of the header; planes and scales lie at multiples of 64, fp32 at multiples of 4
};

// Suffixes of a nested matrix' tensors, in file order.
inline constexpr const char* kPlaneSuffixes[] = {".base3", ".bit4", ".bit5", ".bit6", ".bits78", ".scales"};
inline constexpr char kReferenceSuffix[] = ".reference";

// All tensors in file order without holes: planes and scales, vectors, references.
std::vector<PackageTensor> PackageTensors(const ModelConfig& config, int64_t group_size, bool has_reference,
                                          Dtype reference_dtype);

}  // namespace flexquant

#endif  // FLEXQUANT_COMMON_STORE_PACKAGE_LAYOUT_H_
