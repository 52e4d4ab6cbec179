#include "controller/model_package.h"

#include <algorithm>
#include <filesystem>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/calibration/calibration.h"
#include "common/mapped_file.h"
#include "common/status_macros.h"
#include "common/store/manifest.h"

namespace flexquant::controller {

ModelPackage MakeModelPackage(std::string name, std::string revision, const ModelConfig& config,
                              const LayerGroups& layer_groups, bool has_reference, std::unique_ptr<Tokenizer> tokenizer,
                              const std::optional<Calibration>& calibration, int lookahead) {
  ModelPackage package;
  package.name = std::move(name);
  package.revision = std::move(revision);
  package.config = config;
  package.layer_groups = std::make_unique<LayerGroups>(layer_groups);
  package.policies = MakePolicyContext(*package.layer_groups, has_reference, calibration, lookahead);
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

absl::StatusOr<ModelPackage> LoadModelPackage(const std::string& folder, int lookahead) {
  const std::filesystem::path path(folder);
  std::error_code error;
  if (!std::filesystem::is_directory(path, error)) {
    return absl::NotFoundError(
        absl::StrCat("model folder '", folder, "' does not exist", "; make one with `flexquant convert SOURCE DEST`"));
  }
  const std::string manifest_path = (path / "flexquant.json").string();
  const std::string config_path = (path / "config.json").string();
  FQ_ASSIGN_OR_RETURN(const std::string manifest_text, ReadFile(manifest_path));
  FQ_ASSIGN_OR_RETURN(const Manifest manifest, Manifest::FromJson(manifest_text, manifest_path));
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
                                                   "; convert the model again with `flexquant convert`"));
  }
  FQ_ASSIGN_OR_RETURN(const auto calibration,
                      CalibrationOfManifest(manifest_text, manifest_path, manifest.Revision(),
                                            NumLayerGroups(static_cast<int>(config->num_layers))));
  const LayerGroups layer_groups(*config, manifest.group_size, manifest.reference_dtype,
                                 manifest.fine_activations_from);
  return MakeModelPackage(manifest.model_name, manifest.Revision(), *config, layer_groups, manifest.has_reference,
                          std::move(tokenizer), calibration, lookahead);
}

}  // namespace flexquant::controller
