#include "common/store/random_package.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/half.h"
#include "common/mapped_file.h"
#include "common/status_macros.h"
#include "common/store/manifest.h"
#include "common/store/model_store.h"
#include "common/store/package_layout.h"
#include "common/store/package_writer.h"

namespace flexquant {
namespace {

constexpr float kScale = 0x1p-12F;
constexpr float kZero = 128.0F;

// As many bytes as the largest tensor has, of a hash (splitmix64).
std::vector<uint8_t> RandomBytes(uint64_t bytes) {
  std::vector<uint8_t> result((bytes + 7) / 8 * 8);
  for (uint64_t i = 0; i < result.size(); i += 8) {
    uint64_t x = (i / 8 + 1) * 0x9E3779B97F4A7C15ULL;
    x = (x ^ (x >> 30U)) * 0xBF58476D1CE4E5B9ULL;
    x = (x ^ (x >> 27U)) * 0x94D049BB133111EBULL;
    x ^= x >> 31U;
    std::memcpy(result.data() + i, &x, sizeof(x));
  }
  return result;
}

absl::Status WriteTensors(const std::vector<PackageTensor>& tensors, WeightsFileWriter& writer,
                          const std::function<absl::Status(uint64_t, uint64_t)>& progress) {
  uint64_t planes = 0;
  uint64_t others = 0;
  for (const PackageTensor& tensor : tensors) {
    uint64_t& largest = tensor.dtype == "U8" ? planes : others;
    largest = std::max(largest, tensor.bytes);
  }
  const std::vector<uint8_t> codes = RandomBytes(planes);
  std::vector<uint16_t> scales(others / sizeof(uint16_t));
  for (size_t i = 0; i < scales.size(); ++i) {
    scales[i] = FloatToHalf(i / kTileRows % 2 == 0 ? kScale : kZero);
  }
  const std::vector<float> ones(others / sizeof(float), 1.0F);
  const std::vector<float> zeros(ones.size(), 0.0F);
  for (const PackageTensor& tensor : tensors) {
    FQ_RETURN_IF_ERROR(progress(tensor.offset, tensors.back().offset + tensors.back().bytes));
    const void* data = codes.data();
    if (tensor.dtype == "F16") {
      data = scales.data();
    } else if (tensor.dtype == "F32") {
      data = absl::EndsWith(tensor.name, ".bias") ? zeros.data() : ones.data();
    }
    FQ_RETURN_IF_ERROR(writer.Write(tensor.name, data, tensor.bytes));
  }
  return absl::OkStatus();
}

double StoredBitsPerWeight(const ModelConfig& config, const std::vector<PackageTensor>& tensors) {
  uint64_t bytes = 0;
  for (const PackageTensor& tensor : tensors) {
    bytes += tensor.dtype == "F32" ? 0 : tensor.bytes;
  }
  int64_t weights = 0;
  for (const MatrixSpec& matrix : PackageMatrices(config)) {
    weights += matrix.rows * matrix.cols;
  }
  return 8 * static_cast<double>(bytes) / static_cast<double>(weights);
}

}  // namespace

absl::Status WriteRandomPackage(const ModelConfig& config, int64_t group_size, const std::string& destination,
                                const std::function<absl::Status(uint64_t, uint64_t)>& progress) {
  FQ_RETURN_IF_ERROR(config.Validate());
  FQ_ASSIGN_OR_RETURN(StagingFolder staging, StagingFolder::Create(destination, /*overwrite=*/false));
  const auto tensors = PackageTensors(config, group_size, /*has_reference=*/false, Dtype::kBF16);
  const std::string weights = absl::StrCat(staging.path(), "/", kWeightsFile);
  FQ_ASSIGN_OR_RETURN(WeightsFileWriter writer, WeightsFileWriter::Create(weights, tensors));
  FQ_RETURN_IF_ERROR(WriteTensors(tensors, writer, progress));
  FQ_RETURN_IF_ERROR(writer.Finish());

  Manifest manifest;
  manifest.format_version = kStoreFormatVersion;
  manifest.flexquant_version = FLEXQUANT_VERSION;
  manifest.model_name = config.name.empty() ? "random" : config.name;
  manifest.group_size = group_size;
  FQ_ASSIGN_OR_RETURN(manifest.checksum, FileChecksum(weights));
  manifest.file_bytes = writer.file_bytes();
  manifest.source_description = "random weights";
  manifest.num_parameters = config.NumParameters();
  manifest.stored_bits_per_weight = StoredBitsPerWeight(config, tensors);
  FQ_RETURN_IF_ERROR(WriteFile(absl::StrCat(staging.path(), "/", kConfigFile), config.ToJson()));
  FQ_RETURN_IF_ERROR(WriteFile(absl::StrCat(staging.path(), "/", kManifestFile), manifest.ToJson()));
  return staging.Commit();
}

}  // namespace flexquant
