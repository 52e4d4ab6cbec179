#include "common/store/model_store.h"

#include <filesystem>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/formats/safetensors.h"
#include "common/precision.h"
#include "common/status_macros.h"
#include "common/store/manifest.h"
#include "common/store/package_layout.h"

namespace flexquant {
namespace {

absl::Status TensorError(const std::string& path, const std::string& tensor, const std::string& problem) {
  return absl::InvalidArgumentError(
      absl::StrCat(path, ": tensor \"", tensor, "\" ", problem, "; convert the model again with `flexquant convert`"));
}

std::string Describe(const std::string& dtype, const std::vector<int64_t>& shape) {
  return absl::StrCat(dtype, " [", absl::StrJoin(shape, ", "), "]");
}

}  // namespace

// Builds a ModelStore step by step; every step checks what it reads.
class ModelStoreLoader {
 public:
  explicit ModelStoreLoader(const std::string& folder) : store_(new ModelStore()) { store_->folder_ = folder; }

  absl::StatusOr<std::unique_ptr<ModelStore>> Load(const StoreOptions& options) {
    FQ_RETURN_IF_ERROR(ReadManifest());
    FQ_RETURN_IF_ERROR(ReadConfig());
    FQ_RETURN_IF_ERROR(MapWeights(options));
    FQ_RETURN_IF_ERROR(CheckTensors());
    if (options.verify_checksum) {
      FQ_RETURN_IF_ERROR(CheckScales());
    }
    Bind();
    return std::move(store_);
  }

 private:
  std::string PathOf(const char* file) const { return absl::StrCat(store_->folder_, "/", file); }

  absl::Status ReadManifest() {
    std::error_code error;
    if (!std::filesystem::is_directory(store_->folder_, error)) {
      return absl::NotFoundError(absl::StrCat("no model package at ", store_->folder_,
                                              ": no such folder; make one with `flexquant convert SOURCE DEST`"));
    }
    const std::string path = PathOf(kManifestFile);
    if (!std::filesystem::exists(path, error)) {
      return absl::InvalidArgumentError(absl::StrCat(store_->folder_, " is not a FlexQuant model package (no ",
                                                     kManifestFile,
                                                     "); make one with `flexquant convert SOURCE DEST`"));
    }
    FQ_ASSIGN_OR_RETURN(store_->manifest_json_, ReadFile(path));
    FQ_ASSIGN_OR_RETURN(manifest_, Manifest::FromJson(store_->manifest_json_, path));
    store_->model_name_ = manifest_.model_name;
    store_->revision_ = manifest_.Revision();
    store_->group_size_ = manifest_.group_size;
    store_->fine_activations_from_ = manifest_.fine_activations_from;
    store_->has_reference_ = manifest_.has_reference;
    return absl::OkStatus();
  }

  absl::Status ReadConfig() {
    FQ_ASSIGN_OR_RETURN(const std::string text, ReadFile(PathOf(kConfigFile)));
    auto config = ModelConfig::FromJson(text);
    if (!config.ok()) {
      return {config.status().code(), absl::StrCat(PathOf(kConfigFile), ": ", std::string(config.status().message()))};
    }
    store_->config_ = *std::move(config);
    return absl::OkStatus();
  }

  absl::Status MapWeights(const StoreOptions& options) {
    path_ = PathOf(kWeightsFile);
    FQ_ASSIGN_OR_RETURN(store_->file_, MappedFile::Open(path_));
    const auto bytes = store_->file_.bytes();
    if (bytes.size() != manifest_.file_bytes) {
      return absl::DataLossError(absl::StrCat(path_, " has ", bytes.size(), " bytes, ", kManifestFile, " says ",
                                              manifest_.file_bytes,
                                              ": truncated or of another package; convert or copy it again"));
    }
    if (options.verify_checksum && Checksum(bytes.data(), bytes.size()) != manifest_.checksum) {
      return absl::DataLossError(absl::StrCat(path_, ": the checksum is not the one in ", kManifestFile, " (",
                                              manifest_.checksum, "): corrupt; convert or copy it again"));
    }
    FQ_ASSIGN_OR_RETURN(tensors_, SafetensorsFile::Parse(bytes, path_));
    return absl::OkStatus();
  }

  absl::Status CheckTensors() const {
    const auto expected =
        PackageTensors(store_->config_, manifest_.group_size, manifest_.has_reference, manifest_.reference_dtype);
    const auto& found = tensors_.tensors();
    for (const PackageTensor& tensor : expected) {
      const auto it = found.find(tensor.name);
      if (it == found.end()) {
        return TensorError(path_, tensor.name, "is missing");
      }
      const SafetensorInfo& info = it->second;
      if (info.dtype != tensor.dtype || info.shape != tensor.shape) {
        return TensorError(
            path_, tensor.name,
            absl::StrCat("is ", Describe(info.dtype, info.shape), ", expected ", Describe(tensor.dtype, tensor.shape)));
      }
      const uint64_t alignment = tensor.dtype == "F32" ? 4 : tensor.dtype == "BF16" ? 2 : 64;
      const auto offset = static_cast<uint64_t>(info.data.data() - store_->file_.bytes().data());
      if (offset % alignment != 0) {
        return TensorError(path_, tensor.name,
                           absl::StrCat("starts at byte ", offset, ", not a multiple of ", alignment));
      }
    }
    if (found.size() != expected.size()) {
      return absl::InvalidArgumentError(absl::StrCat(path_, " holds ", found.size(), " tensors, expected ",
                                                     expected.size(), "; convert the model again"));
    }
    return absl::OkStatus();
  }

  // A matching checksum says that the file is as it was written, not that the writer was sound.
  absl::Status CheckScales() const {
    constexpr uint16_t kHalfExponent = 0x7C00;
    for (const auto& [name, info] : tensors_.tensors()) {
      if (info.dtype != "F16") {
        continue;
      }
      const auto* halves = reinterpret_cast<const uint16_t*>(info.data.data());
      for (size_t i = 0; i < info.data.size() / sizeof(uint16_t); ++i) {
        if ((halves[i] & kHalfExponent) == kHalfExponent) {
          return TensorError(path_, name, absl::StrCat("has NaN or infinity at element ", i));
        }
      }
    }
    return absl::OkStatus();
  }

  // CheckTensors has passed: every tensor is there.
  const uint8_t* Data(const std::string& name) const { return tensors_.tensors().at(name).data.data(); }

  NestedMatrix Matrix(const MatrixSpec& spec) const {
    NestedMatrix matrix;
    matrix.rows = spec.rows;
    matrix.cols = spec.cols;
    matrix.group_size = manifest_.group_size;
    matrix.base3 = Data(spec.name + ".base3");
    matrix.bit4 = Data(spec.name + ".bit4");
    matrix.bit5 = Data(spec.name + ".bit5");
    matrix.bit6 = Data(spec.name + ".bit6");
    matrix.bits78 = Data(spec.name + ".bits78");
    matrix.scales = reinterpret_cast<const uint16_t*>(Data(spec.name + ".scales"));
    if (manifest_.has_reference) {
      matrix.reference = Data(spec.name + kReferenceSuffix);
      matrix.reference_dtype = manifest_.reference_dtype;
    }
    return matrix;
  }

  absl::Span<const float> Vector(const std::string& name) const {
    const auto it = tensors_.tensors().find(name);
    if (it == tensors_.tensors().end()) {
      return {};
    }
    return {reinterpret_cast<const float*>(it->second.data.data()), it->second.data.size() / sizeof(float)};
  }

  void Bind() {
    const std::vector<MatrixSpec> specs = PackageMatrices(store_->config_);
    size_t next = 0;
    for (int64_t layer = 0; layer < store_->config_.num_layers; ++layer) {
      const std::string prefix = absl::StrCat("layers.", layer, ".");
      BlockWeights block;
      block.attention_norm = Vector(prefix + "attention_norm");
      block.mlp_norm = Vector(prefix + "mlp_norm");
      block.q_norm = Vector(prefix + "q_norm");
      block.k_norm = Vector(prefix + "k_norm");
      block.qkv = Matrix(specs[next++]);
      block.o = Matrix(specs[next++]);
      block.gate_up = Matrix(specs[next++]);
      block.down = Matrix(specs[next++]);
      block.qkv_bias = Vector(prefix + "qkv.bias");
      block.o_bias = Vector(prefix + "o.bias");
      block.gate_up_bias = Vector(prefix + "gate_up.bias");
      block.down_bias = Vector(prefix + "down.bias");
      store_->blocks_.push_back(block);
    }
    store_->final_norm_ = Vector("final_norm");
    store_->embedding_ = Matrix(specs.back());
    store_->lm_head_ = store_->config_.tied_head ? store_->embedding_ : Matrix(specs[next]);
  }

  std::unique_ptr<ModelStore> store_;
  Manifest manifest_;
  std::string path_;
  SafetensorsFile tensors_;
};

absl::StatusOr<std::unique_ptr<ModelStore>> ModelStore::Open(const std::string& folder, const StoreOptions& options) {
  return ModelStoreLoader(folder).Load(options);
}

std::unique_ptr<ModelStore> ModelStore::WithWeights(const ModelStore& whole, const ModelConfig& config,
                                                    std::vector<BlockWeights> blocks, const NestedMatrix& embedding,
                                                    const NestedMatrix& lm_head) {
  auto store = std::unique_ptr<ModelStore>(new ModelStore());
  store->folder_ = whole.folder_;
  store->model_name_ = whole.model_name_;
  store->revision_ = whole.revision_;
  store->manifest_json_ = whole.manifest_json_;
  store->has_reference_ = whole.has_reference_;
  store->group_size_ = whole.group_size_;
  store->fine_activations_from_ = whole.fine_activations_from_;
  store->config_ = config;
  store->blocks_ = std::move(blocks);
  store->final_norm_ = whole.final_norm_;
  store->embedding_ = embedding;
  store->lm_head_ = lm_head;
  return store;
}

const NestedMatrix& ModelStore::layer_group(int index) const {
  if (index == LmHeadIndex(static_cast<int>(config_.num_layers))) {
    return lm_head_;
  }
  const BlockWeights& block = blocks_[static_cast<size_t>(index / kLayerGroupsPerBlock)];
  switch (static_cast<LayerGroupKind>(index % kLayerGroupsPerBlock)) {
    case LayerGroupKind::kQkv:
      return block.qkv;
    case LayerGroupKind::kO:
      return block.o;
    case LayerGroupKind::kGateUp:
      return block.gate_up;
    default:
      return block.down;
  }
}

absl::StatusOr<std::optional<Calibration>> ModelStore::ReadCalibration() const {
  return CalibrationOfManifest(manifest_json_, absl::StrCat(folder_, "/", kManifestFile), revision_,
                               num_layer_groups());
}

std::vector<uint64_t> ModelStore::LayerGroupWeights() const {
  std::vector<uint64_t> weights;
  for (int group = 0; group < num_layer_groups(); ++group) {
    weights.push_back(layer_group(group).num_weights());
  }
  return weights;
}

}  // namespace flexquant
