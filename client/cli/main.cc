// flexquant: the command line.

#include <cstdio>
#include <cstdlib>

#include "client/cli/commands.h"
#include "client/cli/interrupt.h"
#include "proto/grpc_status.h"

namespace {

constexpr int kExitUsage = 2;
constexpr int kExitSignal = 128;

constexpr char kFooter[] = R"(
Exit status: 0 done, 1 failed (the reason is on standard error), 2 wrong usage, 130 stopped by Ctrl-C, 143 by SIGTERM.
Answers and JSON go to standard output; progress, reports and errors to standard error.
`flexquant COMMAND --help` says more.)";

}  // namespace

int main(int argc, char** argv) {
  flexquant::cli::Interrupt::Install();
  CLI::App app("FlexQuant: language models whose weight bits change from token to token.", "flexquant");
  app.set_version_flag("--version", "flexquant " FLEXQUANT_VERSION);
  app.require_subcommand(1);
  app.footer(kFooter);
  flexquant::cli::RunCommand run;
  flexquant::cli::AddConvert(app, run);
  flexquant::cli::AddCalibrate(app, run);
  flexquant::cli::AddInspect(app, run);
  flexquant::cli::AddGenerate(app, run);
  flexquant::cli::AddChat(app, run);
  flexquant::cli::AddServe(app, run);
  flexquant::cli::AddToken(app, run);
  flexquant::cli::AddInfo(app, run);
  flexquant::cli::AddTop(app, run);
  flexquant::cli::AddBench(app, run);
  flexquant::cli::AddEvaluate(app, run);
  flexquant::cli::AddLoadgen(app, run);
  flexquant::cli::AddCompletion(app, run);
  flexquant::cli::AddMan(app, run);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? EXIT_SUCCESS : kExitUsage;
  }
  const absl::Status status = run();
  if (status.ok()) {
    return EXIT_SUCCESS;
  }
  if (absl::IsCancelled(status) && flexquant::cli::Interrupt::Requested()) {
    std::fputs("stopped\n", stderr);
    return kExitSignal + flexquant::cli::Interrupt::Signal();
  }
  std::fprintf(stderr, "flexquant: %s\n", flexquant::DescribeStatus(status).c_str());
  return EXIT_FAILURE;
}
