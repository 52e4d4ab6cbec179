// flexquant-executor: serves flexquant.executor.v1 for one model. Exit codes: 0 = stopped by a signal, 1 = failed, 2 =
// bad usage.

#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/log.h"
#include "common/mapped_file.h"
#include "common/status_macros.h"
#include "executor/server.h"
#include "executor/tensor_parallel/shard.h"
#include "proto/grpc_status.h"
#include "spdlog/spdlog.h"
#include "transport/listen_flags.h"

namespace flexquant::executor {
namespace {

constexpr int kExitFailure = 1;
constexpr int kExitUsage = 2;
constexpr absl::Duration kFailureGrace = absl::Seconds(10);
constexpr uint64_t kMaxKvCacheMb = 1U << 24U;

struct Flags {
  ExecutorOptions options;
  uint64_t kv_cache_mb = 0;
  int prompt_activations = 15;  // bits
  std::string log_level = "info";
  std::string log_format = "text";
  std::string port_file;
  uint32_t drain_seconds = 30;
};

void AddFlags(CLI::App& app, Flags& flags) {
  flags.options.listen.address = "127.0.0.1:50061";
  app.add_option("--model", flags.options.model_dir, "Model package: a folder made by `flexquant convert`")->required();
  transport::AddListenFlags(app, flags.options.listen);
  transport::AddHealthListenFlag(app, flags.options.listen);
  app.add_option("--allow-client", flags.options.allowed_clients,
                 "With TLS: name that a client's certificate must carry; repeat for several")
      ->capture_default_str();
  app.add_option("--device", flags.options.device,
                 "Where to compute: cpu, cuda (the first GPUs), cuda:N, or cuda:N,M: one for each rank")
      ->capture_default_str();
  app.add_option("--tensor-parallel", flags.options.tensor_parallel,
                 "Ranks that the model is cut among, each with its share of weights, heads and threads, or a GPU")
      ->check(CLI::Range(1, kMaxTensorParallel))
      ->capture_default_str();
  app.add_option("--threads", flags.options.num_threads, "Threads; 0 = physical cores")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  app.add_flag("--pin", flags.options.pin_threads,
               "Bind each thread of a CPU to a core of its own; for machines that have nothing else to do");
  app.add_option("--isa", flags.options.isa,
                 "Kernels: portable, avx2, avxvnni, avx512vnni or neon on a CPU, portable on a GPU; default: best");
  app.add_flag("--mapped-weights", flags.options.mapped_weights,
               "CPU: compute on the mapped file, not on a copy in memory; slower, but processes share it");
  app.add_option("--prompt-activations", flags.prompt_activations,
                 "CPU: bits of the activations that prompts are computed with; 8: faster, with a loss "
                 "(docs/performance-cpu.md)")
      ->check(CLI::IsMember({8, 15}))
      ->capture_default_str();
  app.add_option("--kv-cache-mb", flags.kv_cache_mb,
                 "KV cache in MiB; 0 = 4 sequences of the model's context, at most a quarter of free memory")
      ->check(CLI::Range(uint64_t{0}, kMaxKvCacheMb))
      ->capture_default_str();
  app.add_option("--kv-cache-bits", flags.options.kv_cache_bits,
                 "CPU: bits of keys and values; 8: half the memory, and faster behind long contexts, with a loss "
                 "(docs/performance-cpu.md)")
      ->check(CLI::IsMember({8, 16}))
      ->capture_default_str();
  app.add_flag("--verify", flags.options.verify_checksum, "Check the model's checksum first (reads the whole file)");
  app.add_option("--port-file", flags.port_file, "File to write the port to once it is served");
  app.add_option("--drain-seconds", flags.drain_seconds, "How long running requests may take to end after SIGTERM")
      ->check(CLI::Range(0, 86'400))
      ->capture_default_str();
  app.add_option("--log-format", flags.log_format, "text or json: one object a line")
      ->check(CLI::IsMember({"text", "json"}))
      ->capture_default_str();
  app.add_option("--log-level", flags.log_level, "Least level logged to stderr")
      ->check(CLI::IsMember({"trace", "debug", "info", "warn", "error", "off"}))
      ->capture_default_str();
  app.footer(
      "SIGTERM or SIGINT: finish what runs, then exit with 0; a second one: stop at once.\n"
      "Exit codes: 0 stopped by a signal, 1 failed, 2 bad usage.");
}

sigset_t StopSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  return signals;
}

// Returns when the server has stopped after a stop signal; all threads block them. INTERNAL if it failed instead, which
// SIGUSR1 tells.
absl::Status ServeUntilSignal(ExecutorServer& server, uint32_t drain_seconds) {
  sigset_t signals = StopSignals();
  sigaddset(&signals, SIGUSR1);
  int signal = 0;
  sigwait(&signals, &signal);
  if (signal == SIGUSR1) {
    // Streams that can end do so with a status; a hanging device would keep this process for ever.
    std::thread([] {
      absl::SleepFor(kFailureGrace);
      std::_Exit(kExitFailure);
    }).detach();
    server.Shutdown(absl::Seconds(1));
    return absl::InternalError("the backend failed; the log says why");
  }
  spdlog::info("{}: finishing what runs, for at most {} s", signal == SIGTERM ? "SIGTERM" : "SIGINT", drain_seconds);
  std::thread second([&] {
    int again = 0;
    sigwait(&signals, &again);
    if (again != SIGUSR1) {
      spdlog::warn("second signal: stopping at once");
      server.Shutdown(absl::ZeroDuration());
    }
  });
  server.Shutdown(absl::Seconds(drain_seconds));
  pthread_kill(second.native_handle(), SIGUSR1);
  second.join();
  return absl::OkStatus();
}

absl::Status Run(Flags& flags) {
  if (flags.options.listen.address.empty()) {
    return absl::InvalidArgumentError("--listen is empty; give HOST:PORT");
  }
  flags.options.kv_cache_bytes = flags.kv_cache_mb << 20U;
  flags.options.coarse_prompts = flags.prompt_activations == 8;
  flags.options.on_failure = [](const absl::Status&) { kill(getpid(), SIGUSR1); };
  FQ_ASSIGN_OR_RETURN(const std::unique_ptr<ExecutorServer> server, ExecutorServer::Create(flags.options));
  const std::string host = flags.options.listen.address.substr(0, flags.options.listen.address.rfind(':'));
  spdlog::info("listening on {}:{} {}", host, server->port(),
               flags.options.listen.tls.empty() ? "without TLS" : "with TLS");
  if (!flags.port_file.empty()) {
    // A reader sees no file or the whole port.
    FQ_RETURN_IF_ERROR(WriteFileAtomically(flags.port_file, absl::StrCat(server->port(), "\n")));
  }
  FQ_RETURN_IF_ERROR(ServeUntilSignal(*server, flags.drain_seconds));
  spdlog::info("stopped");
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  Flags flags;
  CLI::App app("FlexQuant executor: holds a model's weights and KV cache and runs the steps a controller sends");
  app.set_version_flag("--version", FLEXQUANT_VERSION);
  AddFlags(app, flags);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kExitUsage;
  }
  flexquant::ConfigureLog("executor", flags.log_level, flags.log_format == "json");

  // Before any thread starts, so that all inherit the mask and only sigwait sees the signals (SIGUSR1 wakes the waiter
  // for a second one).
  sigset_t signals = StopSignals();
  sigaddset(&signals, SIGUSR1);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);

  const absl::Status status = Run(flags);
  if (!status.ok()) {
    std::fprintf(stderr, "flexquant-executor: %s\n", DescribeStatus(status).c_str());
    return kExitFailure;
  }
  return 0;
}

}  // namespace
}  // namespace flexquant::executor

int main(int argc, char** argv) { return flexquant::executor::Main(argc, argv); }
