#include "common/store/convert.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/half.h"
#include "common/mapped_file.h"
#include "common/precision.h"
#include "common/status_macros.h"
#include "common/store/manifest.h"
#include "common/store/model_store.h"
#include "common/store/nested_quantizer.h"
#include "common/store/package_layout.h"
#include "common/store/package_writer.h"
#include "common/thread_pool.h"

namespace flexquant {
namespace {

// fp16 holds the scale of a group's range over 255 up to this magnitude of weights.
constexpr float kMaxWeight = kMaxHalf * 255 / 2;

class Converter {
 public:
  Converter(ModelSource& source, const ConvertOptions& options)
      : source_(source), options_(options), config_(source.config()), pool_(options.num_threads) {}

  absl::StatusOr<ConvertReport> Run(const std::string& destination) {
    FQ_RETURN_IF_ERROR(CheckOptions());
    FQ_RETURN_IF_ERROR(config_.Validate());
    FQ_ASSIGN_OR_RETURN(StagingFolder staging, StagingFolder::Create(destination, options_.overwrite));
    const std::string weights_path = absl::StrCat(staging.path(), "/", kWeightsFile);
    FQ_ASSIGN_OR_RETURN(
        WeightsFileWriter writer,
        WeightsFileWriter::Create(weights_path, PackageTensors(config_, options_.group_size, options_.keep_reference,
                                                               source_.ReferenceDtype())));
    report_.file_bytes = writer.file_bytes();
    for (const VectorSpec& spec : PackageVectors(config_)) {
      FQ_RETURN_IF_ERROR(WriteVector(spec, writer));
    }
    size_t index = 0;
    for (const MatrixSpec& spec : PackageMatrices(config_)) {
      FQ_RETURN_IF_ERROR(CheckCancelled());
      FQ_RETURN_IF_ERROR(WriteMatrix(spec, index++, writer));
      if (options_.progress) {
        options_.progress(done_bytes_, report_.file_bytes, spec.name);
      }
    }
    FQ_RETURN_IF_ERROR(writer.Finish());
    FinishReport();
    FQ_RETURN_IF_ERROR(WriteTexts(staging.path(), destination));
    FQ_RETURN_IF_ERROR(CheckCancelled());
    FQ_RETURN_IF_ERROR(staging.Commit());
    return report_;
  }

 private:
  absl::Status CheckOptions() const {
    if (options_.group_size != 32 && options_.group_size != 64 && options_.group_size != 128) {
      return absl::InvalidArgumentError(
          absl::StrCat("group size is ", options_.group_size, "; allowed are 32, 64, 128"));
    }
    if (std::count(kFineActivationsFrom.begin(), kFineActivationsFrom.end(), options_.fine_activations_from) == 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("15-bit activations from ", options_.fine_activations_from, " bits on; allowed are 6, 8"));
    }
    FQ_CHECK(options_.keep_reference || !options_.only_reference);
    return absl::OkStatus();
  }

  absl::Status CheckCancelled() const {
    if (options_.cancelled && options_.cancelled()) {
      return absl::CancelledError("conversion cancelled; nothing was left behind");
    }
    return absl::OkStatus();
  }

  absl::Status WriteVector(const VectorSpec& spec, WeightsFileWriter& writer) {
    std::vector<float> values;
    for (const SourcePart& part : spec.parts) {
      FQ_ASSIGN_OR_RETURN(const std::vector<float> tensor, source_.ReadTensor(part.name, 1, part.rows));
      values.insert(values.end(), tensor.begin(), tensor.end());
    }
    done_bytes_ += values.size() * sizeof(float);
    return writer.Write(spec.name, values.data(), values.size() * sizeof(float));
  }

  absl::StatusOr<std::vector<float>> ReadMatrix(const MatrixSpec& spec) {
    std::vector<float> weights;
    for (const SourcePart& part : spec.parts) {
      FQ_ASSIGN_OR_RETURN(std::vector<float> tensor, source_.ReadTensor(part.name, part.rows, spec.cols));
      for (const float w : tensor) {
        if (!(std::abs(w) <= kMaxWeight)) {
          return absl::DataLossError(absl::StrCat("tensor \"", part.name, "\" holds ", w,
                                                  ", beyond what a weight can be (", kMaxWeight,
                                                  "); the source is corrupt"));
        }
      }
      if (weights.empty()) {
        weights = std::move(tensor);
      } else {
        weights.insert(weights.end(), tensor.begin(), tensor.end());
      }
    }
    return weights;
  }

  // A tied embedding is the head, too.
  absl::Span<const float> Importance(size_t index) const {
    if (options_.activations == nullptr || index >= options_.activations->mean_square.size()) {
      return {};
    }
    return options_.activations->mean_square[index];
  }

  const InputMoments* Moments(size_t index) const {
    if (options_.activations == nullptr || index >= options_.activations->moments.size()) {
      return nullptr;
    }
    return &options_.activations->moments[index];
  }

  absl::Status WriteMatrix(const MatrixSpec& spec, size_t index, WeightsFileWriter& writer) {
    FQ_ASSIGN_OR_RETURN(const std::vector<float> weights, ReadMatrix(spec));
    if (!options_.only_reference) {
      FQ_RETURN_IF_ERROR(WritePlanes(spec, index, weights, writer));
    }
    return options_.keep_reference ? WriteReference(spec, weights, writer) : absl::OkStatus();
  }

  absl::Status WritePlanes(const MatrixSpec& spec, size_t index, const std::vector<float>& weights,
                           WeightsFileWriter& writer) {
    const NestedMatrixBuffers planes = QuantizeNested(weights, spec.rows, spec.cols, options_.group_size,
                                                      options_.num_threads, Importance(index), Moments(index));
    AddErrors(weights, planes.view());
    const auto write_bytes = [&](const char* suffix, const std::vector<uint8_t>& plane) {
      stored_bytes_ += plane.size();
      return writer.Write(spec.name + suffix, plane.data(), plane.size());
    };
    FQ_RETURN_IF_ERROR(write_bytes(".base3", planes.base3));
    FQ_RETURN_IF_ERROR(write_bytes(".bit4", planes.bit4));
    FQ_RETURN_IF_ERROR(write_bytes(".bit5", planes.bit5));
    FQ_RETURN_IF_ERROR(write_bytes(".bit6", planes.bit6));
    FQ_RETURN_IF_ERROR(write_bytes(".bits78", planes.bits78));
    const uint64_t scale_bytes = planes.scales.size() * sizeof(uint16_t);
    stored_bytes_ += scale_bytes;
    FQ_RETURN_IF_ERROR(writer.Write(spec.name + ".scales", planes.scales.data(), scale_bytes));
    report_.num_quantized_weights += weights.size();
    done_bytes_ += planes.base3.size() / 3 * 8 + scale_bytes;
    return absl::OkStatus();
  }

  absl::Status WriteReference(const MatrixSpec& spec, const std::vector<float>& weights, WeightsFileWriter& writer) {
    const std::string name = spec.name + kReferenceSuffix;
    if (source_.ReferenceDtype() == Dtype::kF32) {
      done_bytes_ += weights.size() * sizeof(float);
      return writer.Write(name, weights.data(), weights.size() * sizeof(float));
    }
    std::vector<uint16_t> halves(weights.size());
    std::transform(weights.begin(), weights.end(), halves.begin(), FloatToBfloat16);
    done_bytes_ += halves.size() * sizeof(uint16_t);
    return writer.Write(name, halves.data(), halves.size() * sizeof(uint16_t));
  }

  // Sums squared errors of every precision over every row.
  void AddErrors(const std::vector<float>& weights, const NestedMatrix& matrix) {
    std::vector<std::array<double, kPrecisions.size() + 1>> sums(static_cast<size_t>(pool_.num_threads()));
    const auto cols = static_cast<size_t>(matrix.cols);
    pool_.ParallelFor(matrix.rows, [&](int64_t begin, int64_t end, int thread) {
      std::vector<float> row(cols);
      std::array<double, kPrecisions.size() + 1> local{};
      for (int64_t n = begin; n < end; ++n) {
        const float* exact = weights.data() + static_cast<size_t>(n) * cols;
        for (size_t p = 0; p < kPrecisions.size(); ++p) {
          DequantizeRow(matrix, n, kPrecisions[p], absl::MakeSpan(row));
          for (size_t k = 0; k < cols; ++k) {
            const double error = static_cast<double>(row[k]) - static_cast<double>(exact[k]);
            local[p] += error * error;
          }
        }
        for (size_t k = 0; k < cols; ++k) {
          local.back() += static_cast<double>(exact[k]) * static_cast<double>(exact[k]);
        }
      }
      sums[static_cast<size_t>(thread)] = local;
    });
    for (const auto& local : sums) {
      for (size_t p = 0; p < local.size(); ++p) {
        squares_[p] += local[p];
      }
    }
  }

  void FinishReport() {
    for (size_t p = 0; p < kPrecisions.size(); ++p) {
      report_.relative_error.push_back(squares_.back() > 0 ? std::sqrt(squares_[p] / squares_.back()) : 0);
    }
    report_.stored_bits_per_weight =
        report_.num_quantized_weights > 0
            ? 8 * static_cast<double>(stored_bytes_) / static_cast<double>(report_.num_quantized_weights)
            : 0;
  }

  absl::Status WriteTexts(const std::string& folder, const std::string& destination) {
    Manifest manifest;
    manifest.format_version = kStoreFormatVersion;
    manifest.flexquant_version = FLEXQUANT_VERSION;
    manifest.model_name = options_.model_name;
    if (manifest.model_name.empty()) {
      manifest.model_name = config_.name;
    }
    if (manifest.model_name.empty()) {
      manifest.model_name = std::filesystem::path(destination + "/").parent_path().filename().string();
    }
    manifest.group_size = options_.group_size;
    manifest.has_reference = options_.keep_reference;
    manifest.fine_activations_from = options_.fine_activations_from;
    manifest.reference_dtype = source_.ReferenceDtype();
    FQ_ASSIGN_OR_RETURN(manifest.checksum, FileChecksum(absl::StrCat(folder, "/", kWeightsFile)));
    manifest.file_bytes = report_.file_bytes;
    manifest.source = std::filesystem::path(options_.source_path).filename().string();
    manifest.source_description = source_.Description();
    manifest.fit_text = options_.fit_text;
    manifest.num_parameters = config_.NumParameters();
    manifest.stored_bits_per_weight = report_.stored_bits_per_weight;
    manifest.relative_error = report_.relative_error;
    FQ_RETURN_IF_ERROR(WriteFile(absl::StrCat(folder, "/", kConfigFile), config_.ToJson()));
    FQ_RETURN_IF_ERROR(source_.SaveTokenizer(folder));
    return WriteFile(absl::StrCat(folder, "/", kManifestFile), manifest.ToJson());
  }

  ModelSource& source_;
  const ConvertOptions& options_;
  const ModelConfig& config_;
  ThreadPool pool_;
  ConvertReport report_;
  uint64_t done_bytes_ = 0;
  uint64_t stored_bytes_ = 0;
  std::array<double, kPrecisions.size() + 1> squares_{};  // one a precision, then the weights'
};

}  // namespace

absl::StatusOr<ConvertReport> Convert(ModelSource& source, const std::string& destination,
                                      const ConvertOptions& options) {
  return Converter(source, options).Run(destination);
}

}  // namespace flexquant
