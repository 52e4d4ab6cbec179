#include "controller/model_package.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/mapped_file.h"
#include "common/status_macros.h"
#include "nlohmann/json.hpp"

namespace flexquant::controller {
namespace {

using Json = nlohmann::json;

constexpr int64_t kFormatVersion = 1;
constexpr absl::string_view kRemedy = "; convert the model again with `flexquant convert`";

// The manifest's fields that the controller uses.
struct Manifest {
  std::string name;
  std::string revision;
  int64_t group_size = 0;
  bool has_reference = false;
  Dtype reference_dtype = Dtype::kBF16;
};

class ManifestReader {
 public:
  ManifestReader(const Json& json, std::string path) : json_(json), path_(std::move(path)) {}

  absl::StatusOr<std::string> Text(const std::string& field) const {
    const auto value = json_.find(field);
    if (value == json_.end() || !value->is_string() || value->get_ref<const std::string&>().empty()) {
      return Error(field, "must be a string that is not empty");
    }
    return value->get<std::string>();
  }
  absl::StatusOr<int64_t> Integer(const std::string& field) const {
    const auto value = json_.find(field);
    if (value == json_.end() || !value->is_number_integer()) {
      return Error(field, "must be an integer");
    }
    return value->get<int64_t>();
  }
  absl::StatusOr<bool> Flag(const std::string& field) const {
    const auto value = json_.find(field);
    if (value == json_.end() || !value->is_boolean()) {
      return Error(field, "must be true or false");
    }
    return value->get<bool>();
  }
  absl::Status Error(absl::string_view field, absl::string_view what) const {
    return absl::InvalidArgumentError(absl::StrCat(path_, ": \"", field, "\" ", what, kRemedy));
  }

 private:
  const Json& json_;
  const std::string path_;
};

absl::StatusOr<Manifest> ParseManifest(const std::string& text, const std::string& path) {
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) {
    return absl::DataLossError(absl::StrCat(path, " is not a JSON object", kRemedy));
  }
  const ManifestReader reader(json, path);
  FQ_ASSIGN_OR_RETURN(const int64_t version, reader.Integer("format_version"));
  if (version != kFormatVersion) {
    return reader.Error("format_version", absl::StrCat("is ", version, "; this program reads ", kFormatVersion));
  }
  Manifest manifest;
  FQ_ASSIGN_OR_RETURN(manifest.name, reader.Text("model_name"));
  FQ_ASSIGN_OR_RETURN(manifest.revision, reader.Text("revision"));
  FQ_ASSIGN_OR_RETURN(manifest.group_size, reader.Integer("group_size"));
  if (manifest.group_size != 32 && manifest.group_size != 64 && manifest.group_size != 128) {
    return reader.Error("group_size", absl::StrCat("is ", manifest.group_size, "; allowed are 32, 64 and 128"));
  }
  FQ_ASSIGN_OR_RETURN(manifest.has_reference, reader.Flag("has_reference"));
  if (manifest.has_reference) {
    FQ_ASSIGN_OR_RETURN(const std::string dtype, reader.Text("reference_dtype"));
    if (dtype != "f32" && dtype != "bf16") {
      return reader.Error("reference_dtype", "must be \"f32\" or \"bf16\"");
    }
    manifest.reference_dtype = dtype == "f32" ? Dtype::kF32 : Dtype::kBF16;
  }
  return manifest;
}

}  // namespace

ModelPackage MakeModelPackage(std::string name, std::string revision, const ModelConfig& config, int64_t group_size,
                              bool has_reference, Dtype reference_dtype, std::unique_ptr<Tokenizer> tokenizer) {
  ModelPackage package;
  package.name = std::move(name);
  package.revision = std::move(revision);
  package.config = config;
  package.layer_groups = std::make_unique<LayerGroups>(config, group_size, reference_dtype);
  package.policies.num_layer_groups = package.layer_groups->count();
  package.policies.has_reference = has_reference;
  package.policies.ladder = Ladder::Uniform(package.layer_groups->count());
  package.policies.named_plans = UniformNamedPlans(package.layer_groups->count());
  package.tokenizer = std::move(tokenizer);
  auto chat_template = ChatTemplate::Recognize(*package.tokenizer);
  package.chat_template_status = chat_template.status();
  if (chat_template.ok()) {
    package.chat_template = *std::move(chat_template);
  }
  for (uint32_t id = 0; id < package.tokenizer->vocab_size(); ++id) {
    package.max_token_bytes =
        std::max(package.max_token_bytes, package.tokenizer->TokenBytes(id, /*render_special=*/true).size());
  }
  return package;
}

absl::StatusOr<ModelPackage> LoadModelPackage(const std::string& folder) {
  const std::filesystem::path path(folder);
  std::error_code error;
  if (!std::filesystem::is_directory(path, error)) {
    return absl::NotFoundError(
        absl::StrCat("model folder '", folder, "' does not exist", "; make one with `flexquant convert SOURCE DEST`"));
  }
  const std::string manifest_path = (path / "flexquant.json").string();
  const std::string config_path = (path / "config.json").string();
  FQ_ASSIGN_OR_RETURN(const std::string manifest_text, ReadFile(manifest_path));
  FQ_ASSIGN_OR_RETURN(const Manifest manifest, ParseManifest(manifest_text, manifest_path));
  FQ_ASSIGN_OR_RETURN(const std::string config_text, ReadFile(config_path));
  auto config = ModelConfig::FromJson(config_text);
  if (!config.ok()) {
    return absl::Status(config.status().code(), absl::StrCat(config_path, ": ", config.status().message()));
  }
  FQ_RETURN_IF_ERROR(config->Validate());
  FQ_ASSIGN_OR_RETURN(std::unique_ptr<Tokenizer> tokenizer, Tokenizer::Load(folder));
  if (static_cast<int64_t>(tokenizer->vocab_size()) > config->vocab_size) {
    return absl::InvalidArgumentError(absl::StrCat(folder, ": the tokenizer has ", tokenizer->vocab_size(),
                                                   " tokens, config.json's vocab_size is ", config->vocab_size,
                                                   kRemedy));
  }
  return MakeModelPackage(manifest.name, manifest.revision, *config, manifest.group_size, manifest.has_reference,
                          manifest.reference_dtype, std::move(tokenizer));
}

}  // namespace flexquant::controller
