#include "client/cli/prompt.h"

#include <unistd.h>

#include <cstdio>

#include "absl/strings/str_cat.h"
#include "client/cli/input.h"
#include "client/cli/terminal.h"
#include "common/mapped_file.h"
#include "common/status_macros.h"
#include "common/tokenizer/tokenizer.h"

namespace flexquant::cli {
namespace {

// Beyond any model's context.
constexpr size_t kMaxPromptBytes = size_t{64} << 20U;

absl::StatusOr<std::string> ReadPrompt(const PromptFlags& flags) {
  if (flags.given->count() > 0) {
    return flags.prompt;
  }
  std::string text;
  if (!flags.file.empty()) {
    FQ_ASSIGN_OR_RETURN(text, ReadFile(flags.file));
  } else {
    if (isatty(STDIN_FILENO) == 1) {
      std::fputs("Type the prompt; end it with Ctrl-D on a line of its own.\n", stderr);
    }
    FQ_ASSIGN_OR_RETURN(text, Input().ReadAll(kMaxPromptBytes));
  }
  if (!text.empty() && text.back() == '\n') {
    text.pop_back();
  }
  return text;
}

}  // namespace

void AddPromptFlags(CLI::App& app, PromptFlags& flags) {
  flags.given = app.add_option("--prompt", flags.prompt, "Prompt; without it and --prompt-file: standard input");
  app.add_option("--prompt-file", flags.file, "File with the prompt (one newline at its end is dropped)")
      ->excludes(flags.given);
  auto* chat = app.add_flag("--chat", flags.chat, "Put the prompt through the model's chat template");
  app.add_option("--system", flags.system, "System message before the prompt")->needs(chat);
}

absl::Status CheckUtf8(const std::string& text, const std::string& what) {
  const int64_t offset = FindInvalidUtf8(text);
  return offset < 0 ? absl::OkStatus()
                    : absl::InvalidArgumentError(
                          absl::StrCat(what, " is not valid UTF-8 at byte ", offset, "; convert it to UTF-8"));
}

absl::Status FillPrompt(const PromptFlags& flags, v1::GenerateRequest& request) {
  FQ_ASSIGN_OR_RETURN(const std::string prompt, ReadPrompt(flags));
  FQ_RETURN_IF_ERROR(CheckUtf8(prompt, "the prompt"));
  FQ_RETURN_IF_ERROR(CheckUtf8(flags.system, "the system message"));
  if (!flags.chat) {
    request.set_text(prompt);
    return absl::OkStatus();
  }
  const auto add = [&request](const char* role, const std::string& content) {
    auto* message = request.mutable_chat()->add_messages();
    message->set_role(role);
    message->set_content(content);
  };
  if (!flags.system.empty()) {
    add("system", flags.system);
  }
  add("user", prompt);
  return absl::OkStatus();
}

}  // namespace flexquant::cli
