#ifndef FLEXQUANT_CLIENT_CLI_EVALUATE_POLICIES_H_
#define FLEXQUANT_CLIENT_CLI_EVALUATE_POLICIES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"
#include "client/cli/policy_cases.h"
#include "client/cli/policy_evaluation.h"
#include "client/cli/text_windows.h"
#include "common/store/model_store.h"

namespace flexquant::cli {

// --policy and what goes with it.
void AddPolicyFlags(CLI::App& app, std::vector<std::string>& policies, PolicyFlags& flags);

// Runs `policies` on `windows` and prints, for each: KL to the top precision (mean with a 95 % interval over windows,
// median, 99th percentile, largest), top-1 agreement, perplexity, the weight bytes read, and the part of the windows of
// kRequestTokens or more tokens that keep a budget. INVALID_ARGUMENT for a policy that does not exist or parameters
// that do not go with it.
absl::Status EvaluatePolicies(const PolicyFlags& flags, const std::vector<std::string>& policies,
                              const TextWindowOptions& text, const std::vector<std::vector<uint32_t>>& windows,
                              const ModelStore& store, const PolicyRunners& runners, bool json);

}  // namespace flexquant::cli

#endif  // FLEXQUANT_CLIENT_CLI_EVALUATE_POLICIES_H_
