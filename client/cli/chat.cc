#include <csignal>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>

#include "client/cli/answer.h"
#include "client/cli/commands.h"
#include "client/cli/connection.h"
#include "client/cli/input.h"
#include "client/cli/interrupt.h"
#include "client/cli/prompt.h"
#include "client/cli/report.h"
#include "client/cli/request_flags.h"
#include "client/cli/terminal.h"
#include "client/cli/token_printer.h"
#include "common/status_macros.h"
#include "proto/grpc_status.h"

namespace flexquant::cli {
namespace {

constexpr char kHelp[] =
    "/help  this text\n/reset  forget the conversation\n/report  the last answer's precision report\n"
    "/quit  leave (or Ctrl-D); Ctrl-C stops an answer\n";

struct Flags {
  ConnectionFlags connection;
  RequestFlags request;
  std::string system;
  std::string color = "auto";
};

// A conversation at the terminal.
class Chat {
 public:
  Chat(const Flags& flags, const client::Client& client, v1::GenerateRequest request)
      : flags_(flags), client_(client), request_(std::move(request)), color_(UseColor(flags.color, stdout)) {
    Reset();
  }

  absl::Status Run() {
    if (color_ && UseColor(flags_.color, stderr)) {
      PrintLegend();
    }
    while (true) {
      std::fputs("> ", stderr);
      FQ_ASSIGN_OR_RETURN(const std::optional<std::string> line, input_.ReadLine());
      if (!line.has_value() || *line == "/quit") {
        return absl::OkStatus();
      }
      if (!line->empty() && line->front() == '/') {
        Command(*line);
      } else if (!line->empty()) {
        FQ_RETURN_IF_ERROR(Say(*line));
      }
    }
  }

 private:
  void Reset() {
    request_.mutable_chat()->clear_messages();
    if (!flags_.system.empty()) {
      Add("system", flags_.system);
    }
  }

  void Add(const char* role, const std::string& content) {
    auto* message = request_.mutable_chat()->add_messages();
    message->set_role(role);
    message->set_content(content);
  }

  void Command(const std::string& line) {
    if (line == "/reset") {
      Reset();
    } else if (line == "/report") {
      std::fputs(ReportText(last_, UseColor(flags_.color, stderr)).c_str(), stderr);
    } else {
      std::fputs(kHelp, stderr);
    }
  }

  // Only errors that end the chat; others are shown and the message is taken back.
  absl::Status Say(const std::string& text) {
    if (const absl::Status utf8 = CheckUtf8(text, "the message"); !utf8.ok()) {
      std::fprintf(stderr, "%s\n", DescribeStatus(utf8).c_str());
      return absl::OkStatus();
    }
    Add("user", text);
    TokenPrinter printer(color_);
    last_ = Answer();
    const absl::Status status = RunAnswer(
        client_, request_, [&printer](const v1::GenerationDelta& delta) { printer.Print(delta); }, last_);
    printer.Finish();
    const bool stopped = absl::IsCancelled(status) && Interrupt::Signal() == SIGINT;
    if (status.ok() || stopped) {
      Add("assistant", last_.response.text());
      if (stopped) {
        Interrupt::Reset();
      }
      return absl::OkStatus();
    }
    FQ_RETURN_IF_ERROR(Interrupt::Check());
    request_.mutable_chat()->mutable_messages()->RemoveLast();
    std::fprintf(stderr, "%s\n", DescribeStatus(status).c_str());
    return absl::OkStatus();
  }

  const Flags& flags_;
  const client::Client& client_;
  v1::GenerateRequest request_;
  const bool color_;
  Input input_;
  Answer last_;
};

absl::Status RunChat(const Flags& flags, const v1::GenerateRequest& request) {
  FQ_RETURN_IF_ERROR(CheckUtf8(flags.system, "the system message"));
  FQ_ASSIGN_OR_RETURN(const auto connection, Connection::Open(flags.connection));
  FQ_ASSIGN_OR_RETURN(const v1::ServerInfo info, connection->client().GetServerInfo());
  if (!info.has_chat_template()) {
    return absl::FailedPreconditionError(info.model() +
                                         " has no chat template of a known family; use `flexquant generate`");
  }
  std::fprintf(stderr, "%s. /help lists the commands.\n", info.model().c_str());
  return Chat(flags, connection->client(), request).Run();
}

}  // namespace

void AddChat(CLI::App& app, RunCommand& run) {
  auto flags = std::make_shared<Flags>();
  auto* command = app.add_subcommand("chat", "Talk with a model");
  AddConnectionFlags(*command, flags->connection);
  command->add_option("--system", flags->system, "System message");
  AddRequestFlags(*command, flags->request);
  AddColorFlag(*command, flags->color);
  command->callback([flags, &run] {
    v1::GenerateRequest request;
    RequireUsage(FillRequest(flags->request, request));
    run = [flags, request] { return RunChat(*flags, request); };
  });
}

}  // namespace flexquant::cli
