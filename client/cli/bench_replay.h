#ifndef FLEXQUANT_CLIENT_CLI_BENCH_REPLAY_H_
#define FLEXQUANT_CLIENT_CLI_BENCH_REPLAY_H_

#include <cstddef>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"
#include "client/cli/connection.h"
#include "executor/device_bench.h"

namespace flexquant::cli {

// `bench decode --schedule`: the plans that a policy chose on a model, token by token, against 8 bits everywhere.
struct ReplayFlags {
  std::string schedule;  // empty = no replay
  std::string policy = "kl:0.01";
  size_t tokens = 0;                    // of the schedule; 0 = all
  EmbeddedFlags embedded;               // the package to run, or whose policy it is
  bool random = false;                  // random weights of `device.config`, on a GPU; else the package
  std::string shapes;                   // name of `device.config`
  executor::DeviceBenchOptions device;  // with one batch size and one context; a package uses the context alone
  bool json = false;
};

// Adds --schedule and what goes with it, a model package's flags too.
void AddReplayFlags(CLI::App& decode, ReplayFlags& flags);

absl::Status RunReplay(const ReplayFlags& flags);

}  // namespace flexquant::cli

#endif  // FLEXQUANT_CLIENT_CLI_BENCH_REPLAY_H_
