#include "common/store/manifest.h"

#include <xxhash.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/json_fields.h"
#include "common/precision.h"
#include "common/status_macros.h"
#include "common/store/model_store.h"

namespace flexquant {
namespace {

using Json = nlohmann::ordered_json;

constexpr char kRemedy[] = "convert the model again with `flexquant convert`";

std::string Hex(const XXH128_hash_t& hash) { return absl::StrFormat("%016x%016x", hash.high64, hash.low64); }

absl::Status CheckVersion(int64_t version, const std::string& path, const JsonFields& fields) {
  if (version > kStoreFormatVersion) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": format_version is ", version, ", this program reads up to ",
                                                   kStoreFormatVersion, "; use a newer FlexQuant"));
  }
  if (version != kStoreFormatVersion) {
    return fields.Error("format_version", absl::StrCat("is ", version, ", expected ", kStoreFormatVersion));
  }
  return absl::OkStatus();
}

absl::Status ReadOptionalFields(const Json& json, const std::string& path, Manifest& manifest) {
  if (const auto it = json.find("provenance"); it != json.end() && it->is_object()) {
    manifest.source = it->value("source", Json("")).is_string() ? it->value("source", "") : "";
    manifest.source_description = it->value("description", Json("")).is_string() ? it->value("description", "") : "";
    if (const auto fitted = it->find("fitted_to"); fitted != it->end() && fitted->is_object()) {
      const JsonFields fields(*fitted, path, "provenance.fitted_to.", kRemedy);
      FitText text;
      FQ_ASSIGN_OR_RETURN(text.name, fields.String("text"));
      FQ_ASSIGN_OR_RETURN(text.checksum, fields.String("text_checksum"));
      FQ_ASSIGN_OR_RETURN(text.tokens, fields.Count("tokens"));
      manifest.fit_text = std::move(text);
    }
  }
  if (const auto it = json.find("num_parameters"); it != json.end() && it->is_number_unsigned()) {
    manifest.num_parameters = it->get<uint64_t>();
  }
  if (const auto it = json.find("stored_bits_per_weight"); it != json.end() && it->is_number()) {
    manifest.stored_bits_per_weight = it->get<double>();
  }
  if (const auto it = json.find("relative_error"); it != json.end() && it->is_object()) {
    for (const int bits : kPrecisions) {
      const auto error = it->find(absl::StrCat(bits));
      manifest.relative_error.push_back(error != it->end() && error->is_number() ? error->get<double>() : 0);
    }
  }
  return absl::OkStatus();
}

}  // namespace

std::string Checksum(const void* data, uint64_t bytes) { return Hex(XXH3_128bits(data, bytes)); }

absl::StatusOr<std::string> FileChecksum(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot open ", path));
  }
  const std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> state(XXH3_createState(), XXH3_freeState);
  XXH3_128bits_reset(state.get());
  std::vector<char> piece(size_t{1} << 20U);
  while (file) {
    file.read(piece.data(), static_cast<std::streamsize>(piece.size()));
    XXH3_128bits_update(state.get(), piece.data(), static_cast<size_t>(file.gcount()));
  }
  if (file.bad()) {
    return absl::DataLossError(absl::StrCat("cannot read ", path));
  }
  return Hex(XXH3_128bits_digest(state.get()));
}

std::string Manifest::Revision() const {
  return fine_activations_from == kDefaultFineActivationsFrom
             ? checksum
             : absl::StrCat(checksum, "-fine-from-", fine_activations_from);
}

std::string Manifest::ToJson() const {
  Json json;
  json["format_version"] = format_version;
  json["flexquant_version"] = flexquant_version;
  json["model_name"] = model_name;
  json["precisions"] = kPrecisions;
  json["group_size"] = group_size;
  json["mid_point"] = "truncate+mid";
  json["has_reference"] = has_reference;
  json["reference_dtype"] = reference_dtype == Dtype::kF32 ? "F32" : "BF16";
  json["fine_activations_from"] = fine_activations_from;
  json["checksum"] = "xxh3-128:" + checksum;
  json["file_bytes"] = file_bytes;
  json["num_parameters"] = num_parameters;
  json["stored_bits_per_weight"] = stored_bits_per_weight;
  Json errors = Json::object();
  for (size_t i = 0; i < relative_error.size() && i < kPrecisions.size(); ++i) {
    errors[absl::StrCat(kPrecisions[i])] = relative_error[i];
  }
  json["relative_error"] = errors;
  json["provenance"] = {{"source", source}, {"description", source_description}};
  if (fit_text.has_value()) {
    json["provenance"]["fitted_to"] = {{"method", "channel scales and weighted fit"},
                                       {"text", fit_text->name},
                                       {"text_checksum", fit_text->checksum},
                                       {"tokens", fit_text->tokens}};
  }
  // Filled in by calibration.
  json["calibration"] = nullptr;
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

absl::StatusOr<Manifest> Manifest::FromJson(const std::string& text, const std::string& path) {
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(path, " is not a JSON object; convert the model again"));
  }
  const JsonFields fields(json, path, "", kRemedy);
  Manifest manifest;
  FQ_ASSIGN_OR_RETURN(const int64_t version, fields.Integer("format_version"));
  FQ_RETURN_IF_ERROR(CheckVersion(version, path, fields));
  manifest.format_version = static_cast<int>(version);
  FQ_ASSIGN_OR_RETURN(manifest.flexquant_version, fields.String("flexquant_version"));
  FQ_ASSIGN_OR_RETURN(manifest.model_name, fields.String("model_name"));
  if (json.find("precisions") == json.end() || json["precisions"] != Json(kPrecisions)) {
    return fields.Error("precisions", "is not [3, 4, 5, 6, 8]");
  }
  FQ_ASSIGN_OR_RETURN(manifest.group_size, fields.Integer("group_size"));
  if (manifest.group_size != 32 && manifest.group_size != 64 && manifest.group_size != 128) {
    return fields.Error("group_size", absl::StrCat("is ", manifest.group_size, "; allowed are 32, 64, 128"));
  }
  FQ_ASSIGN_OR_RETURN(manifest.has_reference, fields.Bool("has_reference"));
  FQ_ASSIGN_OR_RETURN(const std::string dtype, fields.String("reference_dtype"));
  if (dtype != "F32" && dtype != "BF16") {
    return fields.Error("reference_dtype", absl::StrCat("is \"", dtype, "\"; allowed are F32 and BF16"));
  }
  manifest.reference_dtype = dtype == "F32" ? Dtype::kF32 : Dtype::kBF16;
  // Missing in packages from before it could be chosen.
  if (json.contains("fine_activations_from")) {
    FQ_ASSIGN_OR_RETURN(const int64_t from, fields.Integer("fine_activations_from"));
    if (std::count(kFineActivationsFrom.begin(), kFineActivationsFrom.end(), from) == 0) {
      return fields.Error("fine_activations_from", absl::StrCat("is ", from, "; allowed are 6 and 8"));
    }
    manifest.fine_activations_from = static_cast<int>(from);
  }
  FQ_ASSIGN_OR_RETURN(const std::string checksum, fields.String("checksum"));
  constexpr char kPrefix[] = "xxh3-128:";
  if (checksum.rfind(kPrefix, 0) != 0 || checksum.size() != sizeof(kPrefix) - 1 + 32) {
    return fields.Error("checksum", absl::StrCat("is \"", checksum, "\", not xxh3-128:<32 hex digits>"));
  }
  manifest.checksum = checksum.substr(sizeof(kPrefix) - 1);
  FQ_ASSIGN_OR_RETURN(const int64_t file_bytes, fields.Integer("file_bytes"));
  manifest.file_bytes = static_cast<uint64_t>(file_bytes);
  FQ_RETURN_IF_ERROR(ReadOptionalFields(json, path, manifest));
  return manifest;
}

}  // namespace flexquant
