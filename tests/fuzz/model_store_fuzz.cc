// A model package. The input is a byte of choices, then sections: flexquant.json, config.json, and the header of
// model.safetensors or, if so chosen, the whole file. Unless chosen otherwise, size and checksum of a manifest that can
// be read are made right, so that what lies behind them is reached.

#include <cstdint>
#include <string>
#include <vector>

#include "common/check.h"
#include "common/nested_matrix.h"
#include "common/precision.h"
#include "common/store/manifest.h"
#include "common/store/model_store.h"
#include "common/store/nested_quantizer.h"
#include "common/store/package_layout.h"
#include "nlohmann/json.hpp"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/fuzz_target.h"
#include "tests/fuzz/safetensors_text.h"
#include "tests/fuzz/scratch_folder.h"

namespace flexquant::fuzz {
namespace {

// Enough for the seeds' tensors.
constexpr size_t kDataBytes = 32768;

enum Choice : uint8_t { kWholeFile = 1, kRawManifest = 2, kSkipChecksum = 4 };

// The manifest's text with size and checksum of `weights`, all other fields as they are.
std::string VouchingFor(const std::string& manifest, const std::string& weights) {
  auto json = nlohmann::ordered_json::parse(manifest, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !Manifest::FromJson(manifest, "flexquant.json").ok()) {
    return manifest;
  }
  json["file_bytes"] = weights.size();
  json["checksum"] = "xxh3-128:" + Checksum(weights.data(), weights.size());
  return json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

void ReadMatrix(const NestedMatrix& matrix) {
  std::vector<float> row(static_cast<size_t>(matrix.cols));
  for (const int bits : kPrecisions) {
    for (const int64_t n : {int64_t{0}, matrix.rows - 1}) {
      DequantizeRow(matrix, n, bits, absl::MakeSpan(row));
    }
  }
}

void ReadVector(absl::Span<const float> vector) {
  float sum = 0;
  for (const float value : vector) {
    sum += value;
  }
  volatile float read = sum;
  (void)read;
}

void ReadStore(const ModelStore& store) {
  for (int group = 0; group < store.num_layer_groups(); ++group) {
    ReadMatrix(store.layer_group(group));
  }
  ReadMatrix(store.embedding());
  for (int64_t layer = 0; layer < store.config().num_layers; ++layer) {
    const BlockWeights& block = store.block(layer);
    for (const auto vector : {block.attention_norm, block.mlp_norm, block.q_norm, block.k_norm, block.qkv_bias,
                              block.o_bias, block.gate_up_bias, block.down_bias}) {
      ReadVector(vector);
    }
  }
  ReadVector(store.final_norm());
  FQ_CHECK(store.LayerGroupWeights().size() == static_cast<size_t>(store.num_layer_groups()));
  (void)store.ReadCalibration().ok();
}

FQ_FUZZ_TARGET(model_store, input) {
  static const ScratchFolder* const kFolder = new ScratchFolder();
  static const std::string* const kData = new std::string(kDataBytes, '\0');
  FuzzInput bytes(input);
  const uint8_t choices = bytes.Byte();
  const std::string manifest = bytes.Section();
  const std::string config = bytes.Section();
  std::string weights;
  if ((choices & kWholeFile) != 0) {
    weights = bytes.Rest();
  } else {
    const std::string header = bytes.Section();
    weights = SafetensorsWith(header, *kData);
  }
  kFolder->Write(kManifestFile, (choices & kRawManifest) != 0 ? manifest : VouchingFor(manifest, weights));
  kFolder->Write(kConfigFile, config);
  kFolder->Write(kWeightsFile, weights);
  StoreOptions options;
  options.verify_checksum = (choices & kSkipChecksum) == 0;
  const auto store = ModelStore::Open(kFolder->path(), options);
  if (store.ok()) {
    ReadStore(**store);
  }
}

}  // namespace
}  // namespace flexquant::fuzz
