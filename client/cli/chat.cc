#include <cmath>
#include <csignal>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "client/cli/answer.h"
#include "client/cli/chat_stats.h"
#include "client/cli/commands.h"
#include "client/cli/connection.h"
#include "client/cli/interrupt.h"
#include "client/cli/message_reader.h"
#include "client/cli/prompt.h"
#include "client/cli/report.h"
#include "client/cli/request_flags.h"
#include "client/cli/terminal.h"
#include "client/cli/token_printer.h"
#include "common/precision.h"
#include "common/status_macros.h"
#include "proto/grpc_status.h"

namespace flexquant::cli {
namespace {

constexpr char kHelp[] =
    "/bits N    every layer at N bits (3, 4, 5, 6, 8, 16) from the next answer on; /bits auto: as the chat began\n"
    "/budget X  the fewest bits that keep the mean KL to 8 bits within X nats (calibrated models)\n"
    "/stats     tokens, bits, speed and KL of the last answer and of all\n"
    "/report    the last answer's precision report\n"
    "/clear     forget the conversation\n"
    "/help      this text\n"
    "/quit      leave (or Ctrl-D)\n"
    "A line that ends in \\ goes on in the next one; \"\"\" begins and ends a block of lines. Ctrl-C stops an "
    "answer.\n";

struct Flags {
  ConnectionFlags connection;
  RequestFlags request;
  std::string system;
  std::string color = "auto";
};

// A conversation at the terminal.
class Chat {
 public:
  Chat(const Flags& flags, const client::Client& client, v1::GenerateRequest request, MessageReader& reader)
      : flags_(flags),
        client_(client),
        request_(std::move(request)),
        first_policy_(request_.precision()),
        color_(UseColor(flags.color, stdout)),
        reader_(reader) {
    Clear();
  }

  absl::Status Run() {
    PrintColors();
    while (!quit_) {
      FQ_ASSIGN_OR_RETURN(const auto message, reader_.Read());
      if (!message.has_value()) {
        return absl::OkStatus();
      }
      if (message->command) {
        Command(message->text);
      } else if (!message->text.empty()) {
        FQ_RETURN_IF_ERROR(Say(message->text));
      }
    }
    return absl::OkStatus();
  }

 private:
  void PrintColors() const {
    if (color_ && UseColor(flags_.color, stderr)) {
      PrintLegend();
    }
  }

  void Clear() {
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
    const std::vector<std::string> words = absl::StrSplit(line, absl::ByAnyChar(" \t\n"), absl::SkipEmpty());
    const std::string whole = absl::StrJoin(words, " ");
    const std::string argument = absl::StrJoin(words.begin() + 1, words.end(), " ");
    if (words[0] == "/bits") {
      SetBits(argument);
    } else if (words[0] == "/budget") {
      SetBudget(argument);
    } else if (whole == "/stats") {
      std::fputs(stats_.Text().c_str(), stderr);
    } else if (whole == "/report") {
      std::fputs(ReportText(last_, UseColor(flags_.color, stderr)).c_str(), stderr);
    } else if (whole == "/clear") {
      Clear();
    } else if (whole == "/quit") {
      quit_ = true;
    } else {
      if (whole != "/help") {
        std::fprintf(stderr, "%s is no command. There are:\n", WithoutControls(whole).c_str());
      }
      std::fputs(kHelp, stderr);
      PrintColors();
    }
  }

  void SetBits(const std::string& text) {
    int bits = 0;
    if (text == "auto") {
      *request_.mutable_precision() = first_policy_;
      std::fputs("precision as the chat began\n", stderr);
    } else if (absl::SimpleAtoi(text, &bits) && (IsQuantizedPrecision(bits) || bits == kReferencePrecision)) {
      request_.mutable_precision()->Clear();
      request_.mutable_precision()->set_fixed_bits(static_cast<uint32_t>(bits));
      std::fprintf(stderr, "every layer at %d bits\n", bits);
    } else {
      std::fprintf(stderr, "/bits takes 3, 4, 5, 6, 8, 16 (if the model keeps its reference) or auto, not '%s'\n",
                   WithoutControls(text).c_str());
    }
  }

  void SetBudget(const std::string& text) {
    double nats = 0;
    if (!absl::SimpleAtod(text, &nats) || !std::isfinite(nats) || nats <= 0) {
      std::fprintf(stderr, "/budget takes a mean KL in nats above 0, such as 0.01, not '%s'\n",
                   WithoutControls(text).c_str());
      return;
    }
    // The bounds that the chat began with hold for this policy, too.
    *request_.mutable_precision() = first_policy_;
    request_.mutable_precision()->set_max_mean_kl(nats);
    std::fprintf(stderr, "mean KL to 8 bits within %g nats\n", nats);
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
    if (last_.response.tokens_size() > 0) {
      stats_.Add(last_);
    }
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
  const v1::PrecisionPolicy first_policy_;
  const bool color_;
  MessageReader& reader_;
  Answer last_;
  ChatStats stats_;
  bool quit_ = false;
};

absl::Status RunChat(const Flags& flags, const v1::GenerateRequest& request) {
  FQ_RETURN_IF_ERROR(CheckUtf8(flags.system, "the system message"));
  MessageReader reader;  // before there are threads
  FQ_ASSIGN_OR_RETURN(const auto connection, Connection::Open(flags.connection));
  FQ_ASSIGN_OR_RETURN(const v1::ServerInfo info, connection->client().GetServerInfo());
  if (!info.has_chat_template()) {
    return absl::FailedPreconditionError(info.model() +
                                         " has no chat template of a known family; use `flexquant generate`");
  }
  std::fprintf(stderr, "%s. /help lists the commands.\n", info.model().c_str());
  return Chat(flags, connection->client(), request, reader).Run();
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
