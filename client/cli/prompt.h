#ifndef FLEXQUANT_CLIENT_CLI_PROMPT_H_
#define FLEXQUANT_CLIENT_CLI_PROMPT_H_

#include <string>

#include "CLI/CLI.hpp"
#include "absl/status/statusor.h"
#include "flexquant/v1/inference.pb.h"

namespace flexquant::cli {

struct PromptFlags {
  CLI::Option* given = nullptr;  // --prompt: an empty prompt is one too
  std::string prompt;
  std::string file;
  bool chat = false;
  std::string system;
};

void AddPromptFlags(CLI::App& app, PromptFlags& flags);

// Puts the prompt into `request`; reads a file or standard input if need be. INVALID_ARGUMENT for invalid UTF-8 with
// its offset.
absl::Status FillPrompt(const PromptFlags& flags, v1::GenerateRequest& request);

// INVALID_ARGUMENT with the offset unless `text` is UTF-8; `what` names it.
absl::Status CheckUtf8(const std::string& text, const std::string& what);

}  // namespace flexquant::cli

#endif  // FLEXQUANT_CLIENT_CLI_PROMPT_H_
