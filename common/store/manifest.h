#ifndef FLEXQUANT_COMMON_STORE_MANIFEST_H_
#define FLEXQUANT_COMMON_STORE_MANIFEST_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/nested_matrix.h"
#include "common/precision.h"

namespace flexquant {

// The text whose activations the weights were fitted to.
struct FitText {
  std::string name;      // base name
  std::string checksum;  // hex XXH3-128 of the file
  uint64_t tokens = 0;   // read of it
};

// What flexquant.json says.
struct Manifest {
  int format_version = 0;
  std::string flexquant_version;
  std::string model_name;
  int64_t group_size = kDefaultGroupSize;
  bool has_reference = false;
  Dtype reference_dtype = Dtype::kBF16;
  // Of kFineActivationsFrom, see ActivationBits.
  int fine_activations_from = kDefaultFineActivationsFrom;
  std::string checksum;     // hex XXH3-128 of model.safetensors
  uint64_t file_bytes = 0;  // of model.safetensors
  std::string source;       // the source's base name
  std::string source_description;
  std::optional<FitText> fit_text;  // nullopt: the weights were quantised without a text
  uint64_t num_parameters = 0;
  double stored_bits_per_weight = 0;
  std::vector<double> relative_error;  // at each of kPrecisions

  // Identifies what the model computes: the checksum, with a suffix where activations are not the usual.
  std::string Revision() const;

  std::string ToJson() const;
  // INVALID_ARGUMENT names `path`, the field and the remedy.
  static absl::StatusOr<Manifest> FromJson(const std::string& text, const std::string& path);
};

// Hex XXH3-128 of bytes.
std::string Checksum(const void* data, uint64_t bytes);
// The same of a file, read in small pieces: a mapping would count as memory of the process. Errors name the path.
absl::StatusOr<std::string> FileChecksum(const std::string& path);

}  // namespace flexquant

#endif  // FLEXQUANT_COMMON_STORE_MANIFEST_H_
