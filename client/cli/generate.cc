#include <cstdio>
#include <memory>
#include <string>

#include "client/cli/answer.h"
#include "client/cli/commands.h"
#include "client/cli/connection.h"
#include "client/cli/prompt.h"
#include "client/cli/report.h"
#include "client/cli/request_flags.h"
#include "client/cli/terminal.h"
#include "client/cli/token_printer.h"
#include "common/status_macros.h"

namespace flexquant::cli {
namespace {

struct Flags {
  ConnectionFlags connection;
  PromptFlags prompt;
  RequestFlags request;
  std::string color = "auto";
  bool token_info = false;
  uint32_t top_logprobs = 0;
  bool json = false;
  bool no_report = false;
};

absl::Status RunJson(const Flags& flags, const client::Client& client, const v1::GenerateRequest& request) {
  Answer answer;
  const absl::Status status = RunAnswer(
      client, request, [](const v1::GenerationDelta&) {}, answer);
  if (answer.response.has_started()) {
    PrintJson(AnswerToJson(answer, flags.token_info));
  }
  return status;
}

absl::Status RunText(const Flags& flags, const client::Client& client, const v1::GenerateRequest& request) {
  const bool color = UseColor(flags.color, stdout);
  TokenPrinter printer(color);
  if (color && UseColor(flags.color, stderr)) {
    PrintLegend();
  }
  Answer answer;
  const absl::Status status = RunAnswer(
      client, request, [&printer](const v1::GenerationDelta& delta) { printer.Print(delta); }, answer);
  printer.Finish();
  if (answer.response.has_started() && !flags.no_report) {
    std::fprintf(stderr, "\n%s", ReportText(answer, UseColor(flags.color, stderr)).c_str());
  }
  return status;
}

absl::Status RunGenerate(const Flags& flags, v1::GenerateRequest request) {
  FQ_RETURN_IF_ERROR(FillPrompt(flags.prompt, request));
  request.mutable_output()->set_top_logprobs(flags.top_logprobs);
  FQ_ASSIGN_OR_RETURN(const auto connection, Connection::Open(flags.connection));
  return flags.json ? RunJson(flags, connection->client(), request) : RunText(flags, connection->client(), request);
}

}  // namespace

void AddGenerate(CLI::App& app, RunCommand& run) {
  auto flags = std::make_shared<Flags>();
  auto* command = app.add_subcommand("generate", "Answer one prompt");
  AddConnectionFlags(*command, flags->connection);
  AddPromptFlags(*command, flags->prompt);
  AddRequestFlags(*command, flags->request);
  AddColorFlag(*command, flags->color);
  auto* json = command->add_flag("--json", flags->json, "Print one JSON object instead of the text");
  auto* token_info =
      command->add_flag("--token-info", flags->token_info, "With --json: bits, entropy and more of every token");
  token_info->needs(json);
  command->add_option("--top-logprobs", flags->top_logprobs, "With --token-info: most likely tokens to list, 0 to 20")
      ->needs(token_info);
  command->add_flag("--no-report", flags->no_report, "Do not print the precision report");
  command->callback([flags, &run] {
    v1::GenerateRequest request;
    RequireUsage(FillRequest(flags->request, request));
    run = [flags, request] { return RunGenerate(*flags, request); };
  });
}

void RequireUsage(const absl::Status& status) {
  if (!status.ok()) {
    throw CLI::ValidationError(std::string(status.message()));
  }
}

}  // namespace flexquant::cli
