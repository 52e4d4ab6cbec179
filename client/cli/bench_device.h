#ifndef FLEXQUANT_CLIENT_CLI_BENCH_DEVICE_H_
#define FLEXQUANT_CLIENT_CLI_BENCH_DEVICE_H_

#include "client/cli/commands.h"

namespace flexquant::cli {

// Adds `decode` and `prefill` to the subcommand `bench`.
void AddDeviceBench(CLI::App& bench, RunCommand& run);

}  // namespace flexquant::cli

#endif  // FLEXQUANT_CLIENT_CLI_BENCH_DEVICE_H_
