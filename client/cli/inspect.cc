#include "common/store/inspect.h"

#include <cstdio>
#include <memory>
#include <string>

#include "client/cli/commands.h"
#include "common/status_macros.h"

namespace flexquant::cli {
namespace {

struct Flags {
  std::string folder;
  StoreOptions options;
  bool json = false;
};

absl::Status RunInspect(const Flags& flags) {
  FQ_ASSIGN_OR_RETURN(std::string text,
                      flags.json ? InspectJson(flags.folder, flags.options) : InspectText(flags.folder, flags.options));
  if (text.empty() || text.back() != '\n') {
    text.push_back('\n');
  }
  std::fputs(text.c_str(), stdout);
  return absl::OkStatus();
}

}  // namespace

void AddInspect(CLI::App& app, RunCommand& run) {
  auto flags = std::make_shared<Flags>();
  auto* command = app.add_subcommand("inspect", "Shape, bits, sizes, checksums and provenance of a package");
  command->add_option("DEST", flags->folder, "Folder made by `flexquant convert`")->required();
  command->add_flag("--verify", flags->options.verify_checksum, "Read all weights and compare their checksum");
  command->add_flag("--json", flags->json, "Print JSON");
  command->callback([flags, &run] { run = [flags] { return RunInspect(*flags); }; });
}

}  // namespace flexquant::cli
