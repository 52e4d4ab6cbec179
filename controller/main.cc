// flexquant-controller: parses flags, serves, drains on SIGTERM or SIGINT.

#include <csignal>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/log.h"
#include "common/mapped_file.h"
#include "common/status_macros.h"
#include "common/stop_signals.h"
#include "controller/executor_directory.h"
#include "controller/server.h"
#include "spdlog/spdlog.h"
#include "transport/channel_credentials.h"
#include "transport/listen_flags.h"

namespace {

struct Flags {
  std::vector<std::string> executors;
  flexquant::transport::ConnectOptions executor_tls;
  std::string port_file;
  std::string metrics_port_file;
  std::string log_level = "info";
  std::string log_format = "text";
  bool no_reflection = false;
  double failover_seconds = 30;
  double step_timeout_seconds = 60;
  double slow_reader_seconds = 30;
  double max_step_ms = 50;
  double resolve_seconds = 5;
  double drain_seconds = 25;  // below Kubernetes' 30 s of grace
  flexquant::controller::ControllerOptions options;
};

void AddExecutorTlsFlags(CLI::App& app, flexquant::transport::ConnectOptions& tls) {
  auto* ca = app.add_option("--executor-ca", tls.files.ca,
                            "PEM file of the authorities of the executors' certificates: reach executors with TLS");
  auto* certificate = app.add_option("--executor-cert", tls.files.certificate,
                                     "PEM file of the certificate that executors know this controller by");
  auto* key = app.add_option("--executor-key", tls.files.key, "PEM file of its key, without a passphrase");
  certificate->needs(ca)->needs(key);
  key->needs(certificate);
  app.add_option("--executor-server-name", tls.server_name,
                 "Name in the executors' certificates; default: the host or name of --executor")
      ->needs(ca);
}

void AddFlags(CLI::App& app, Flags& flags) {
  app.set_version_flag("--version", FLEXQUANT_VERSION);
  app.add_option("--model", flags.options.model_dir, "Folder made by `flexquant convert`")->required();
  flags.options.listen.address = "127.0.0.1:50051";
  flexquant::transport::AddListenFlags(app, flags.options.listen);
  flexquant::transport::AddHealthListenFlag(app, flags.options.listen);
  app.add_option(
      "--tokens", flags.options.tokens_file,
      "JSON file of the tokens that callers must have and their tenants' limits; read again when it changes");
  app.add_option("--executor", flags.executors,
                 "Address of an executor, HOST:PORT, or dns:NAME:PORT for one at every address that the name has, "
                 "looked up again and again; repeat for several")
      ->required();
  app.add_option("--resolve-seconds", flags.resolve_seconds, "How often names given as dns:NAME:PORT are looked up")
      ->check(CLI::Range(0.1, 86400.0))
      ->capture_default_str();
  AddExecutorTlsFlags(app, flags.executor_tls);
  app.add_option("--lookahead", flags.options.lookahead,
                 "1: send a step before the result of the one before it; 0: wait for every result")
      ->check(CLI::Range(0, 1))
      ->capture_default_str();
  app.add_option("--max-queued", flags.options.max_queued_requests, "Requests that may wait for an executor")
      ->check(CLI::Range(1, 1000000))
      ->capture_default_str();
  app.add_option("--max-queued-tokens", flags.options.max_queued_tokens,
                 "Tokens, of prompts and of the answers asked for, that may wait for an executor")
      ->check(CLI::Range(uint64_t{1}, uint64_t{1} << 40U))
      ->capture_default_str();
  app.add_option("--failover-seconds", flags.failover_seconds,
                 "How long accepted requests wait for an executor when all are lost")
      ->check(CLI::Range(0.0, 86400.0))
      ->capture_default_str();
  app.add_option("--step-timeout", flags.step_timeout_seconds,
                 "Seconds after which an executor that owes a result counts as lost")
      ->check(CLI::Range(0.1, 86400.0))
      ->capture_default_str();
  app.add_option("--slow-reader-seconds", flags.slow_reader_seconds,
                 "Seconds after which a stream that its client does not read ends")
      ->check(CLI::Range(0.1, 86400.0))
      ->capture_default_str();
  app.add_option("--prefill-chunk", flags.options.prefill_chunk_tokens, "Most prompt tokens in a step")
      ->check(CLI::Range(1, 1000000))
      ->capture_default_str();
  app.add_option("--max-step-ms", flags.max_step_ms,
                 "A step that decodes has so much of prompts that it takes about so long at most; 0 = a whole chunk")
      ->check(CLI::Range(0.0, 60'000.0))
      ->capture_default_str();
  app.add_option("--audit-rate", flags.options.audit_rate,
                 "Share of the tokens under a budget of KL whose KL is measured, by computing them at 8 bits too")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  app.add_option("--drain-seconds", flags.drain_seconds, "How long running requests may go on after SIGTERM")
      ->check(CLI::Range(0.0, 86400.0))
      ->capture_default_str();
  app.add_option("--metrics-listen", flags.options.metrics_listen,
                 "HOST:PORT to serve Prometheus metrics on, without TLS; default: none");
  app.add_option("--metrics-port-file", flags.metrics_port_file, "File to write the metrics' port to once it is open");
  app.add_option("--log-format", flags.log_format, "text or json: one object a line")
      ->check(CLI::IsMember({"text", "json"}))
      ->capture_default_str();
  app.add_option("--port-file", flags.port_file, "File to write the port to once it is open");
  app.add_option("--log-level", flags.log_level, "trace, debug, info, warn, error or off")
      ->check(CLI::IsMember({"trace", "debug", "info", "warn", "error", "off"}))
      ->capture_default_str();
  app.add_flag("--no-reflection", flags.no_reflection, "Do not serve gRPC reflection");
}

absl::StatusOr<std::unique_ptr<flexquant::controller::ControllerServer>> Start(const Flags& flags) {
  flexquant::controller::ControllerOptions options = flags.options;
  FQ_ASSIGN_OR_RETURN(const auto credentials, flexquant::transport::ChannelCredentials::Open(flags.executor_tls));
  for (const std::string& address : flags.executors) {
    flexquant::transport::ConnectOptions tls = flags.executor_tls;
    const auto name = flexquant::controller::ParseDnsAddress(address);
    if (!tls.encrypted() &&
        !flexquant::transport::IsLoopback(name.ok() ? absl::StrCat(name->host, ":", name->port) : address)) {
      spdlog::warn("executor {} is reached without TLS: prompts and answers cross the network readable; --executor-ca",
                   address);
    }
    if (!name.ok() || !tls.encrypted() || !tls.server_name.empty()) {
      options.executors.push_back({address, nullptr, credentials});
      continue;
    }
    // Connections are made to addresses; certificates are for the name.
    tls.server_name = name->host;
    FQ_ASSIGN_OR_RETURN(const auto named, flexquant::transport::ChannelCredentials::Open(tls));
    options.executors.push_back({address, nullptr, named});
  }
  return flexquant::controller::ControllerServer::Create(options);
}

// Writes nothing without a path; false if it cannot be written, which is logged.
bool WritePort(const char* flag, const std::string& path, int port) {
  if (path.empty()) {
    return true;
  }
  const absl::Status written = flexquant::WriteFile(path, std::to_string(port) + "\n");
  if (!written.ok()) {
    spdlog::error("{}: {}", flag, std::string(written.message()));
  }
  return written.ok();
}

int Serve(const Flags& flags, const sigset_t& signals) {
  auto server = Start(flags);
  if (!server.ok()) {
    spdlog::error("{}", std::string(server.status().message()));
    return EXIT_FAILURE;
  }
  if (!WritePort("--port-file", flags.port_file, (*server)->port()) ||
      !WritePort("--metrics-port-file", flags.metrics_port_file, (*server)->metrics_port())) {
    return EXIT_FAILURE;
  }
  flexquant::WaitForStopSignal(signals, [](int second) { std::_Exit(128 + second); });
  (*server)->Shutdown(absl::Seconds(flags.drain_seconds));
  spdlog::info("stopped");
  return EXIT_SUCCESS;
}

}  // namespace

int main(int argc, char** argv) {
  const sigset_t signals = flexquant::BlockStopSignals();

  CLI::App app("FlexQuant controller: serves text generation and schedules executors.");
  Flags flags;
  AddFlags(app, flags);
  CLI11_PARSE(app, argc, argv);
  flexquant::ConfigureLog("controller", flags.log_level, flags.log_format == "json");
  flags.options.failover_timeout = absl::Seconds(flags.failover_seconds);
  flags.options.step_timeout = absl::Seconds(flags.step_timeout_seconds);
  flags.options.slow_reader_timeout = absl::Seconds(flags.slow_reader_seconds);
  flags.options.max_step_time =
      flags.max_step_ms > 0 ? absl::Milliseconds(flags.max_step_ms) : absl::InfiniteDuration();
  flags.options.resolve_interval = absl::Seconds(flags.resolve_seconds);
  flags.options.reflection = !flags.no_reflection;
  return Serve(flags, signals);
}
