#include "common/store/inspect.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/precision.h"
#include "common/rescoring.h"
#include "common/status_macros.h"
#include "common/store/manifest.h"

namespace flexquant {
namespace {

using Json = nlohmann::ordered_json;

uint64_t BytesAtPrecision(const ModelStore& store, int bits) {
  uint64_t bytes = HeadBytesRead(store.lm_head(), bits);
  for (int group = 0; group + 1 < store.num_layer_groups(); ++group) {
    bytes += store.layer_group(group).BytesRead(bits);
  }
  return bytes;
}

Json ShapeJson(const ModelConfig& config) {
  return {{"family", config.family},
          {"parameters", config.NumParameters()},
          {"layers", config.num_layers},
          {"hidden_size", config.hidden_size},
          {"intermediate_size", config.intermediate_size},
          {"heads", config.num_heads},
          {"kv_heads", config.num_kv_heads},
          {"head_dim", config.head_dim},
          {"vocab_size", config.vocab_size},
          {"context_tokens", config.max_context},
          {"tied_head", config.tied_head}};
}

struct Inspection {
  std::unique_ptr<ModelStore> store;
  Manifest manifest;
  std::optional<Calibration> calibration;
  bool verified = false;
};

absl::StatusOr<Inspection> Inspect(const std::string& folder, const StoreOptions& options) {
  Inspection out;
  FQ_ASSIGN_OR_RETURN(out.store, ModelStore::Open(folder, options));
  FQ_ASSIGN_OR_RETURN(out.manifest, Manifest::FromJson(out.store->manifest_json(), folder));
  FQ_ASSIGN_OR_RETURN(out.calibration, out.store->ReadCalibration());
  out.verified = options.verify_checksum;
  return out;
}

double MiB(uint64_t bytes) { return static_cast<double>(bytes) / (1024.0 * 1024.0); }

}  // namespace

absl::StatusOr<std::string> InspectJson(const std::string& folder, const StoreOptions& options) {
  FQ_ASSIGN_OR_RETURN(const Inspection inspection, Inspect(folder, options));
  const ModelStore& store = *inspection.store;
  const Manifest& manifest = inspection.manifest;
  Json json;
  json["model_name"] = manifest.model_name;
  json["format_version"] = manifest.format_version;
  json["flexquant_version"] = manifest.flexquant_version;
  json["shape"] = ShapeJson(store.config());
  json["group_size"] = manifest.group_size;
  json["has_reference"] = manifest.has_reference;
  json["fine_activations_from"] = manifest.fine_activations_from;
  json["file_bytes"] = store.file_bytes();
  json["stored_bits_per_weight"] = manifest.stored_bits_per_weight;
  Json precisions = Json::array();
  for (size_t i = 0; i < kPrecisions.size(); ++i) {
    Json row = {{"bits", kPrecisions[i]}, {"bytes_per_token", BytesAtPrecision(store, kPrecisions[i])}};
    if (i < manifest.relative_error.size()) {
      row["relative_error"] = manifest.relative_error[i];
    }
    precisions.push_back(row);
  }
  json["precisions"] = precisions;
  Json groups = Json::array();
  for (int group = 0; group < store.num_layer_groups(); ++group) {
    const NestedMatrix& matrix = store.layer_group(group);
    groups.push_back({{"name", LayerGroupName(group, static_cast<int>(store.config().num_layers))},
                      {"rows", matrix.rows},
                      {"cols", matrix.cols}});
  }
  json["layer_groups"] = groups;
  json["checksum"] = manifest.checksum;
  json["checksum_verified"] = inspection.verified;
  json["provenance"] = {{"source", manifest.source}, {"description", manifest.source_description}};
  if (manifest.fit_text.has_value()) {
    json["provenance"]["fitted_to"] = {{"text", manifest.fit_text->name},
                                       {"text_checksum", manifest.fit_text->checksum},
                                       {"tokens", manifest.fit_text->tokens}};
  }
  json["calibrated"] = inspection.calibration.has_value();
  if (inspection.calibration.has_value()) {
    const Calibration& calibration = *inspection.calibration;
    json["calibration"] = {{"rungs", calibration.rungs.size()},
                           {"positions", calibration.positions},
                           {"holdout_positions", calibration.holdout_positions},
                           {"text", calibration.text_name},
                           {"text_checksum", calibration.text_checksum}};
  }
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

absl::StatusOr<std::string> InspectText(const std::string& folder, const StoreOptions& options) {
  FQ_ASSIGN_OR_RETURN(const Inspection inspection, Inspect(folder, options));
  const ModelStore& store = *inspection.store;
  const Manifest& manifest = inspection.manifest;
  const ModelConfig& config = store.config();
  std::string out;
  absl::StrAppendFormat(&out, "%s (%s), %.1f M parameters\n", manifest.model_name, config.family,
                        static_cast<double>(config.NumParameters()) / 1e6);
  absl::StrAppendFormat(
      &out, "  layers %d, hidden %d, intermediate %d, heads %d (KV %d) of %d, vocabulary %d, context %d, head %s\n",
      config.num_layers, config.hidden_size, config.intermediate_size, config.num_heads, config.num_kv_heads,
      config.head_dim, config.vocab_size, config.max_context, config.tied_head ? "tied" : "untied");
  absl::StrAppendFormat(&out, "  weights %.1f MiB, %.3f stored bits a weight for all precisions, groups of %d%s\n",
                        MiB(store.file_bytes()), manifest.stored_bits_per_weight, manifest.group_size,
                        manifest.has_reference ? ", reference kept" : "");
  absl::StrAppendFormat(&out, "  activations of 15 bits from %d bits on, of 8 below\n", manifest.fine_activations_from);
  absl::StrAppend(&out, "  bits  read a token    relative error\n");
  for (size_t i = 0; i < kPrecisions.size(); ++i) {
    absl::StrAppendFormat(&out, "  %4d  %8.1f MiB", kPrecisions[i], MiB(BytesAtPrecision(store, kPrecisions[i])));
    if (i < manifest.relative_error.size()) {
      absl::StrAppendFormat(&out, "    %.5f", manifest.relative_error[i]);
    }
    absl::StrAppend(&out, "\n");
  }
  absl::StrAppendFormat(&out, "  checksum xxh3-128 %s (%s)\n", manifest.checksum,
                        inspection.verified ? "verified" : "not verified; --verify reads the whole file");
  absl::StrAppendFormat(&out, "  format %d, written by FlexQuant %s from %s (%s)\n", manifest.format_version,
                        manifest.flexquant_version, manifest.source, manifest.source_description);
  if (manifest.fit_text.has_value()) {
    absl::StrAppendFormat(&out, "  weights fitted to %d tokens of %s (xxh3-128 %s)\n", manifest.fit_text->tokens,
                          manifest.fit_text->name, manifest.fit_text->checksum.substr(0, 16));
  }
  if (inspection.calibration.has_value()) {
    const Calibration& calibration = *inspection.calibration;
    absl::StrAppendFormat(&out, "  calibrated: %d rungs, on %d + %d tokens of %s (xxh3-128 %s)\n",
                          calibration.rungs.size(), calibration.positions, calibration.holdout_positions,
                          calibration.text_name, calibration.text_checksum.substr(0, 16));
  } else {
    absl::StrAppend(&out, "  not calibrated: the ladder of `--precision dynamic` is the uniform widths\n");
  }
  return out;
}

}  // namespace flexquant
