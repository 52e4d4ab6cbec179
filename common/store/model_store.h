#ifndef FLEXQUANT_COMMON_STORE_MODEL_STORE_H_
#define FLEXQUANT_COMMON_STORE_MODEL_STORE_H_

// Reads a model package: a folder with config.json, the tokenizer's files, model.safetensors (planes, scales, norms,
// biases and, if kept, the reference) and flexquant.json (format version, precisions, group size, checksums,
// provenance, calibration).
//
// Tensors of model.safetensors. A nested matrix NAME (see common/nested_matrix.h) is NAME.base3, NAME.bit4, NAME.bit5,
// NAME.bit6, NAME.bits78 (U8), NAME.scales (F16) and optionally NAME.reference (F32 or BF16, [rows, cols]). NAMEs are
// the layer groups ("layers.0.qkv": q, k, v rows stacked; "layers.0.o"; "layers.0.gate_up": gate rows, then up rows;
// "layers.0.down"; "lm_head" unless tied) and "embedding" (always read at the top precision; serves as lm_head when
// tied). Vectors (F32): "layers.0.attention_norm", "layers.0.mlp_norm", "layers.0.q_norm", "layers.0.k_norm",
// "final_norm", "layers.0.qkv.bias", "layers.0.o.bias", "layers.0.gate_up.bias", "layers.0.down.bias". Planes and
// scales start at multiples of 64 bytes of the file, vectors at multiples of 4; common/store/package_layout.h has the
// list.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/calibration/calibration.h"
#include "common/mapped_file.h"
#include "common/model_config.h"
#include "common/nested_matrix.h"

namespace flexquant {

inline constexpr int kStoreFormatVersion = 1;

// One block's weights; empty spans where the family has none.
struct BlockWeights {
  absl::Span<const float> attention_norm;  // [hidden]
  absl::Span<const float> mlp_norm;        // [hidden]
  absl::Span<const float> q_norm;          // [head_dim] or empty
  absl::Span<const float> k_norm;          // [head_dim] or empty
  NestedMatrix qkv;                        // [q_size + 2 * kv_size, hidden]
  NestedMatrix o;                          // [hidden, q_size]
  NestedMatrix gate_up;                    // [2 * intermediate, hidden]
  NestedMatrix down;                       // [hidden, intermediate]
  absl::Span<const float> qkv_bias;        // [q_size + 2 * kv_size] or empty
  absl::Span<const float> o_bias;          // [hidden] or empty
  absl::Span<const float> gate_up_bias;    // [2 * intermediate] or empty
  absl::Span<const float> down_bias;       // [hidden] or empty
};

struct StoreOptions {
  // Compare the file's checksum with flexquant.json and look for scales that are NaN or infinite (reads the whole
  // file).
  bool verify_checksum = false;
};

// An open model package, mapped read-only. Immutable and thread-safe; views live as long as the store.
class ModelStore {
 public:
  // NOT_FOUND (no such folder or file), INVALID_ARGUMENT (not a FlexQuant package, wrong version, wrong shape),
  // DATA_LOSS (truncated or corrupt) name the file and the tensor or field, and the remedy.
  static absl::StatusOr<std::unique_ptr<ModelStore>> Open(const std::string& folder, const StoreOptions& options = {});

  // The same package with these weights, of `config`'s shape, in place of its own, for instance a part of them. What
  // the blocks and matrices view and `whole` must outlive it.
  static std::unique_ptr<ModelStore> WithWeights(const ModelStore& whole, const ModelConfig& config,
                                                 std::vector<BlockWeights> blocks, const NestedMatrix& embedding,
                                                 const NestedMatrix& lm_head);

  const ModelConfig& config() const { return config_; }
  const std::string& folder() const { return folder_; }
  const std::string& model_name() const { return model_name_; }
  // Manifest::Revision; identifies what the model computes.
  const std::string& revision() const { return revision_; }
  bool has_reference() const { return has_reference_; }
  int64_t group_size() const { return group_size_; }
  int fine_activations_from() const { return fine_activations_from_; }  // Manifest's
  int num_layer_groups() const { return static_cast<int>(4 * config_.num_layers + 1); }
  // Text of flexquant.json.
  const std::string& manifest_json() const { return manifest_json_; }
  // nullopt if the package is not calibrated. Errors of CalibrationOfManifest.
  absl::StatusOr<std::optional<Calibration>> ReadCalibration() const;
  uint64_t file_bytes() const { return file_.bytes().size(); }
  // As MappedFile::ReleasePages.
  void ReleasePages() const { file_.ReleasePages(); }

  const BlockWeights& block(int64_t layer) const { return blocks_[static_cast<size_t>(layer)]; }
  absl::Span<const float> final_norm() const { return final_norm_; }
  const NestedMatrix& embedding() const { return embedding_; }  // [vocab, hidden]
  const NestedMatrix& lm_head() const { return lm_head_; }      // [vocab, hidden]; the embedding's planes when tied
  // Matrix of layer group `index` (common/precision.h's order).
  const NestedMatrix& layer_group(int index) const;
  // Weights of each layer group. [num_layer_groups]
  std::vector<uint64_t> LayerGroupWeights() const;

 private:
  friend class ModelStoreLoader;
  ModelStore() = default;

  std::string folder_;
  std::string model_name_;
  std::string revision_;
  std::string manifest_json_;
  bool has_reference_ = false;
  int64_t group_size_ = kDefaultGroupSize;
  int fine_activations_from_ = kDefaultFineActivationsFrom;
  ModelConfig config_;
  MappedFile file_;
  std::vector<BlockWeights> blocks_;
  absl::Span<const float> final_norm_;
  NestedMatrix embedding_;
  NestedMatrix lm_head_;
};

}  // namespace flexquant

#endif  // FLEXQUANT_COMMON_STORE_MODEL_STORE_H_
