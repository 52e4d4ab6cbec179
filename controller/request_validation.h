#ifndef FLEXQUANT_CONTROLLER_REQUEST_VALIDATION_H_
#define FLEXQUANT_CONTROLLER_REQUEST_VALIDATION_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "controller/generation.h"
#include "controller/model_package.h"
#include "flexquant/v1/inference.pb.h"

namespace flexquant::controller {

// A request that may run. `spec` lacks arrival and deadline.
struct ValidatedRequest {
  std::unique_ptr<GenerationSpec> spec;
  v1::EffectiveParams effective;
  bool token_info = false;
  bool token_text = false;  // only with token_info
};

// Checks a request and fills in every default. `kv_tokens`: positions that fit into an executor's KV cache, 0 = not
// known. INVALID_ARGUMENT carries the field's path below GenerateRequest, its value, the allowed range and the remedy;
// NOT_FOUND for the name of a model or plan.
absl::StatusOr<ValidatedRequest> ValidateGenerate(const v1::GenerateRequest& request, const ModelPackage& model,
                                                  uint64_t kv_tokens);

// The ids of a TokenizeRequest's input; errors as above.
absl::StatusOr<std::vector<uint32_t>> Tokenize(const v1::TokenizeRequest& request, const ModelPackage& model);

// INVALID_ARGUMENT for a request_id that no request can have.
absl::Status ValidateAbort(const v1::AbortRequest& request);

// The text of a DetokenizeRequest; errors as above.
absl::StatusOr<std::string> Detokenize(const v1::DetokenizeRequest& request, const ModelPackage& model);

}  // namespace flexquant::controller

#endif  // FLEXQUANT_CONTROLLER_REQUEST_VALIDATION_H_
