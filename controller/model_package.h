#ifndef FLEXQUANT_CONTROLLER_MODEL_PACKAGE_H_
#define FLEXQUANT_CONTROLLER_MODEL_PACKAGE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/model_config.h"
#include "common/tokenizer/chat_template.h"
#include "common/tokenizer/tokenizer.h"
#include "controller/layer_groups.h"
#include "controller/policy/policy_context.h"

namespace flexquant::controller {

// What the controller knows of a model: everything but its weights. Immutable and thread-safe once made.
struct ModelPackage {
  std::string name;
  std::string revision;  // ModelStore::revision
  ModelConfig config;
  std::unique_ptr<LayerGroups> layer_groups;
  PolicyContext policies;
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<ChatTemplate> chat_template;  // null if there is none of a known family
  absl::Status chat_template_status;            // then why
  size_t max_token_bytes = 1;                   // of the longest token's text
};

// Reads a package's flexquant.json, config.json and tokenizer, for a controller that sends so many steps ahead. A
// calibrated package's ladder is the measured one. NOT_FOUND, INVALID_ARGUMENT, DATA_LOSS, FAILED_PRECONDITION (a
// calibration of other weights) or UNIMPLEMENTED name the file, the field and the remedy.
absl::StatusOr<ModelPackage> LoadModelPackage(const std::string& folder, int lookahead = 1);

// Puts a package together from its parts.
ModelPackage MakeModelPackage(std::string name, std::string revision, const ModelConfig& config,
                              const LayerGroups& layer_groups, bool has_reference, std::unique_ptr<Tokenizer> tokenizer,
                              const std::optional<Calibration>& calibration = std::nullopt, int lookahead = 1);

}  // namespace flexquant::controller

#endif  // FLEXQUANT_CONTROLLER_MODEL_PACKAGE_H_
