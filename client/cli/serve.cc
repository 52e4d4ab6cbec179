#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <iterator>
#include <memory>
#include <string>

#include "absl/cleanup/cleanup.h"
#include "client/cli/commands.h"
#include "client/cli/connection.h"
#include "client/cli/interrupt.h"
#include "common/mapped_file.h"
#include "common/status_macros.h"
#include "spdlog/spdlog.h"
#include "transport/listen_flags.h"

namespace flexquant::cli {
namespace {

struct Flags {
  EmbeddedFlags embedded;
  transport::ListenOptions listen;
  std::string port_file;
  double drain_seconds = 25;
};

constexpr unsigned kFailureGraceSeconds = 10;

absl::Status RunServe(const Flags& flags) {
  const int failed = eventfd(0, EFD_CLOEXEC);
  if (failed < 0) {
    return absl::ErrnoToStatus(errno, "eventfd");
  }
  const auto close_failed = absl::MakeCleanup([failed] { close(failed); });
  FQ_ASSIGN_OR_RETURN(const auto servers,
                      EmbeddedServers::Start(flags.embedded, flags.listen,
                                             [failed](const absl::Status&) { eventfd_write(failed, 1); }));
  if (!flags.port_file.empty()) {
    FQ_RETURN_IF_ERROR(WriteFile(flags.port_file, std::to_string(servers->controller().port()) + "\n"));
  }
  pollfd events[] = {{Interrupt::Fd(), POLLIN, 0}, {failed, POLLIN, 0}};
  while (!Interrupt::Requested() && events[1].revents == 0) {
    poll(events, std::size(events), -1);
  }
  if (!Interrupt::Requested()) {
    // Streams that can end do so with a status; a hanging device would keep this process for ever.
    alarm(kFailureGraceSeconds);
    servers->Shutdown(absl::Seconds(1));
    return absl::InternalError("the backend failed; the log says why");
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
  flags->listen.address = "127.0.0.1:50051";
  transport::AddListenFlags(*command, flags->listen);
  transport::AddHealthListenFlag(*command, flags->listen);
  command->add_option("--tokens", flags->embedded.tokens_file,
                      "JSON file of the tokens that callers must have and their tenants' limits; read again when it "
                      "changes");
  command->add_option("--port-file", flags->port_file, "File to write the port to once it is open");
  command->add_option("--drain-seconds", flags->drain_seconds, "How long answers may go on after SIGTERM or Ctrl-C")
      ->check(CLI::Range(0.0, 86400.0))
      ->capture_default_str();
  AddEmbeddedFlags(*command, flags->embedded);
  AddTensorParallelFlag(*command, flags->embedded);
  AddPromptActivationsFlag(*command, flags->embedded);
  AddKvCacheBitsFlag(*command, flags->embedded);
  AddAuditFlag(*command, flags->embedded);
  command->callback([flags, &run] { run = [flags] { return RunServe(*flags); }; });
}

}  // namespace flexquant::cli
