#include <poll.h>

#include <memory>
#include <string>

#include "client/cli/commands.h"
#include "client/cli/connection.h"
#include "client/cli/interrupt.h"
#include "common/mapped_file.h"
#include "common/status_macros.h"
#include "spdlog/spdlog.h"

namespace flexquant::cli {
namespace {

struct Flags {
  EmbeddedFlags embedded;
  std::string listen = "127.0.0.1:50051";
  std::string port_file;
  double drain_seconds = 25;
};

absl::Status RunServe(const Flags& flags) {
  FQ_ASSIGN_OR_RETURN(const auto servers, EmbeddedServers::Start(flags.embedded, flags.listen));
  if (!flags.port_file.empty()) {
    FQ_RETURN_IF_ERROR(WriteFile(flags.port_file, std::to_string(servers->controller().port()) + "\n"));
  }
  pollfd stop = {Interrupt::Fd(), POLLIN, 0};
  while (!Interrupt::Requested()) {
    poll(&stop, 1, -1);
  }
  spdlog::info("draining; a second signal ends at once");
  servers->Shutdown(absl::Seconds(flags.drain_seconds));
  spdlog::info("stopped");
  return absl::OkStatus();
}

}  // namespace

void AddServe(CLI::App& app, RunCommand& run) {
  auto flags = std::make_shared<Flags>();
  flags->embedded.log_level = "info";
  auto* command = app.add_subcommand("serve", "Serve a model: controller and executor in this process");
  command->add_option("--model", flags->embedded.model_dir, "Folder made by `flexquant convert`")->required();
  command->add_option("--listen", flags->listen, "HOST:PORT to serve on; port 0 takes any free one")
      ->capture_default_str();
  command->add_option("--port-file", flags->port_file, "File to write the port to once it is open");
  command->add_option("--drain-seconds", flags->drain_seconds, "How long answers may go on after SIGTERM or Ctrl-C")
      ->check(CLI::Range(0.0, 86400.0))
      ->capture_default_str();
  AddEmbeddedFlags(*command, flags->embedded);
  command->callback([flags, &run] { run = [flags] { return RunServe(*flags); }; });
}

}  // namespace flexquant::cli
