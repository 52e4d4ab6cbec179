#ifndef FLEXQUANT_CLIENT_CLI_BENCH_LOAD_H_
#define FLEXQUANT_CLIENT_CLI_BENCH_LOAD_H_

#include "client/cli/commands.h"

namespace flexquant::cli {

// Adds `load` to the subcommand `bench`.
void AddLoadBench(CLI::App& bench, RunCommand& run);

}  // namespace flexquant::cli

#endif  // FLEXQUANT_CLIENT_CLI_BENCH_LOAD_H_
