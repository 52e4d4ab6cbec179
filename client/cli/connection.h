#ifndef FLEXQUANT_CLIENT_CLI_CONNECTION_H_
#define FLEXQUANT_CLIENT_CLI_CONNECTION_H_

#include <functional>
#include <memory>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/status/statusor.h"
#include "client/cpp/client.h"
#include "controller/server.h"
#include "executor/server.h"

namespace flexquant::cli {

// Flags of a model run in this process.
struct EmbeddedFlags {
  std::string model_dir;
  int threads = 0;
  bool pin = false;
  std::string device = "cpu";
  int tensor_parallel = 1;
  std::string isa;
  int lookahead = 1;
  double kv_cache_gb = 0;
  bool no_rescoring = false;
  bool mapped_weights = false;
  int prompt_activations = 15;  // bits
  int kv_cache_bits = 16;
  double audit_rate = 0.01;
  std::string log_level = "error";
  std::string tokens_file;  // of a server that listens; empty = everybody may use it
};

// Where answers come from: this process or a server.
struct ConnectionFlags {
  EmbeddedFlags embedded;
  std::string server = {};
  double resume_seconds = 30;
  client::ConnectOptions connect = {};  // without the token
  std::string token_file = {};          // empty = the environment's FLEXQUANT_TOKEN, if any
};

// Adds --device, --threads, --pin, --isa, --no-rescoring, --mapped-weights, --lookahead, --kv-cache-gb and --log-level.
void AddEmbeddedFlags(CLI::App& app, EmbeddedFlags& flags);
executor::ExecutorOptions ExecutorOptionsOf(const EmbeddedFlags& flags);
// Of commands that start EmbeddedServers.
void AddTensorParallelFlag(CLI::App& app, EmbeddedFlags& flags);
// Of commands that compute prompts.
void AddPromptActivationsFlag(CLI::App& app, EmbeddedFlags& flags);
void AddKvCacheBitsFlag(CLI::App& app, EmbeddedFlags& flags);
// Adds --audit-rate, for commands that start a controller.
void AddAuditFlag(CLI::App& app, EmbeddedFlags& flags);
// Adds --model, --server (exactly one is required), what --server needs for TLS and a token, the embedded flags and
// --audit-rate.
void AddConnectionFlags(CLI::App& app, ConnectionFlags& flags);

// Adds --server, required, what it needs for TLS and a token, and --log-level.
void AddServerFlags(CLI::App& app, ConnectionFlags& flags);

// A controller and an executor in this process, joined by an in-process channel: the network's code path without the
// network.
class EmbeddedServers {
 public:
  // `listen`: of the public services; without an address in-process only. Ready when it returns.
  // `on_failure`: as in executor::ExecutorOptions.
  static absl::StatusOr<std::unique_ptr<EmbeddedServers>> Start(
      const EmbeddedFlags& flags, const transport::ListenOptions& listen,
      std::function<void(const absl::Status&)> on_failure = nullptr);
  ~EmbeddedServers();

  controller::ControllerServer& controller() { return *controller_; }
  // Answers in progress may end until `grace`.
  void Shutdown(absl::Duration grace);

 private:
  EmbeddedServers() = default;
  std::unique_ptr<executor::ExecutorServer> executor_;
  std::unique_ptr<controller::ControllerServer> controller_;
};

// A client and, if embedded, what it talks to.
class Connection {
 public:
  static absl::StatusOr<std::unique_ptr<Connection>> Open(const ConnectionFlags& flags);

  const client::Client& client() const { return *client_; }

 private:
  Connection() = default;
  std::unique_ptr<EmbeddedServers> servers_;
  std::unique_ptr<client::Client> client_;
};

// Logs go to standard error from here on; `level` as spdlog names it.
void ConfigureLog(const std::string& level);

}  // namespace flexquant::cli

#endif  // FLEXQUANT_CLIENT_CLI_CONNECTION_H_
