#include <poll.h>
#include <unistd.h>

#include <array>
#include <cmath>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/cli/commands.h"
#include "client/cli/connection.h"
#include "client/cli/interrupt.h"
#include "client/cli/json_output.h"
#include "client/cli/terminal.h"
#include "client/cli/top_view.h"
#include "common/status_macros.h"
#include "proto/grpc_status.h"

namespace flexquant::cli {
namespace {

constexpr absl::Duration kAskTimeout = absl::Seconds(5);

struct Flags {
  ConnectionFlags connection;
  double interval_seconds = 1;
  bool once = false;
  bool json = false;
  std::string color = "auto";
};

// Waits; false if asked to leave, by a signal or by q typed where `keys`.
bool Wait(double seconds, bool keys) {
  std::array<pollfd, 2> fds = {pollfd{Interrupt::Fd(), POLLIN, 0}, pollfd{keys ? STDIN_FILENO : -1, POLLIN, 0}};
  if (poll(fds.data(), fds.size(), static_cast<int>(std::lround(seconds * 1e3))) <= 0) {
    return true;
  }
  char key = 0;
  return fds[0].revents == 0 && read(STDIN_FILENO, &key, 1) == 1 && key != 'q';
}

void Show(const Flags& flags, const Screen* screen, const absl::StatusOr<v1::ServerInfo>& info) {
  if (flags.json) {
    Json json = info.ok() ? MessageToJson(*info) : Json{{"error", DescribeStatus(info.status())}};
    std::puts(json.dump(-1, ' ', false, Json::error_handler_t::replace).c_str());
    std::fflush(stdout);
    return;
  }
  std::vector<std::string> lines;
  if (info.ok()) {
    lines = TopLines(flags.connection.server, *info, ScreenSize().first, UseColor(flags.color, stdout));
  } else {
    lines = {WithoutControls(absl::StrCat(flags.connection.server, ": ", DescribeStatus(info.status())))};
  }
  if (screen != nullptr) {
    lines.insert(lines.end(), {"", "q or Ctrl-C leaves"});
    screen->Draw(lines);
    return;
  }
  for (const std::string& line : lines) {
    std::puts(line.c_str());
  }
  std::fflush(stdout);
}

absl::Status RunTop(const Flags& flags) {
  FQ_ASSIGN_OR_RETURN(const auto connection, Connection::Open(flags.connection));
  client::CancelToken cancel;
  const Interrupt::Action on_interrupt([&cancel] { cancel.Cancel(); });
  const client::CallOptions call = {.timeout = kAskTimeout, .cancel = &cancel};
  auto info = connection->client().GetServerInfo(call);
  // One that was never there is a wrong address; one that goes away may come back.
  FQ_RETURN_IF_ERROR(info.status());
  if (flags.once) {
    Show(flags, nullptr, info);
    return absl::OkStatus();
  }
  const bool pictures = !flags.json && IsTerminal(stdout);
  std::optional<Screen> screen;
  if (pictures) {
    screen.emplace();
  }
  do {
    Show(flags, pictures ? &*screen : nullptr, info);
    if (!Wait(flags.interval_seconds, pictures && IsTerminal(stdin))) {
      break;
    }
    info = connection->client().GetServerInfo(call);
  } while (!Interrupt::Requested());
  return absl::OkStatus();
}

}  // namespace

void AddTop(CLI::App& app, RunCommand& run) {
  auto flags = std::make_shared<Flags>();
  auto* command = app.add_subcommand("top", "Watch a running server: requests, executors, KV caches");
  AddServerFlags(*command, flags->connection);
  command->add_option("--interval", flags->interval_seconds, "Seconds from one picture to the next")
      ->check(CLI::Range(0.1, 3600.0))
      ->capture_default_str();
  command->add_flag("--once", flags->once, "Print one picture and leave");
  command->add_flag("--json", flags->json, "Print an object a line in place of pictures");
  AddColorFlag(*command, flags->color);
  command->callback([flags, &run] { run = [flags] { return RunTop(*flags); }; });
}

}  // namespace flexquant::cli
