#include "client/cli/connection.h"

#include <cstdlib>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "client/cli/interrupt.h"
#include "common/log.h"
#include "common/status_macros.h"
#include "executor/tensor_parallel/shard.h"
#include "kernels/kernels.h"
#include "transport/bearer_token.h"

namespace flexquant::cli {
namespace {

constexpr char kInProcess[] = "in-process";
constexpr absl::Duration kReadyTimeout = absl::Seconds(60);

constexpr char kTokenVariable[] = "FLEXQUANT_TOKEN";

void AddSecurityFlags(CLI::App& app, ConnectionFlags& flags, CLI::Option* server) {
  auto* group = app.add_option_group("Security of --server");
  transport::ConnectOptions& security = flags.connect.security;
  group->add_flag("--tls", security.tls, "Use TLS with the system's authorities; each of the next four means TLS too")
      ->needs(server);
  group->add_option("--ca", security.files.ca, "PEM file of the authorities of the server's certificate")
      ->needs(server);
  auto* certificate =
      group->add_option("--cert", security.files.certificate, "PEM file of this client's certificate")->needs(server);
  auto* key = group->add_option("--key", security.files.key, "PEM file of its key, without a passphrase");
  certificate->needs(key);
  key->needs(certificate);
  group
      ->add_option("--server-name", security.server_name,
                   "Name in the server's certificate; default: the host of --server")
      ->needs(server);
  group
      ->add_option("--token-file", flags.token_file,
                   "File with the bearer token; default: the environment's FLEXQUANT_TOKEN, if any")
      ->needs(server);
  group
      ->add_flag("--allow-plaintext-token", flags.connect.allow_plaintext_token,
                 "Send the token to another machine without TLS, readable for whoever listens")
      ->needs(server);
}

absl::StatusOr<std::string> ReadToken(const std::string& path) {
  if (path.empty()) {
    const char* token = std::getenv(kTokenVariable);
    return token == nullptr ? "" : token;
  }
  // Any kind of file, a pipe from a vault too.
  std::ifstream file(path, std::ios::binary);
  std::string text(transport::kMaxTokenBytes + 2, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (file.bad() || file.gcount() == 0) {
    return absl::InvalidArgumentError(absl::StrCat("--token-file ", path, " is empty or cannot be read"));
  }
  text.resize(static_cast<size_t>(file.gcount()));
  return std::string(absl::StripAsciiWhitespace(text));
}

absl::StatusOr<std::unique_ptr<client::Client>> ConnectToServer(const ConnectionFlags& flags) {
  client::ConnectOptions options = flags.connect;
  FQ_ASSIGN_OR_RETURN(options.token, ReadToken(flags.token_file));
  return client::Client::Connect(flags.server, options);
}

void ExcludeAll(CLI::Option* option, CLI::App& app, std::initializer_list<const char*> names) {
  for (const char* name : names) {
    option->excludes(app.get_option(name));
  }
}

void AddLogLevelFlag(CLI::App& app, EmbeddedFlags& flags) {
  app.add_option("--log-level", flags.log_level, "trace, debug, info, warn, error or off")
      ->check(CLI::IsMember({"trace", "debug", "info", "warn", "error", "off"}))
      ->capture_default_str();
}

}  // namespace

void AddEmbeddedFlags(CLI::App& app, EmbeddedFlags& flags) {
  app.add_option("--threads", flags.threads, "Threads that compute; 0 = the physical cores this process may use")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  app.add_flag("--pin", flags.pin,
               "Bind each thread of a CPU to a core of its own; for machines that have nothing else to do");
  app.add_option("--device", flags.device, "Where to compute: cpu, cuda (the first GPU) or cuda:N")
      ->capture_default_str();
  std::vector<std::string> isas;
  for (const Isa isa : AllIsas()) {
    isas.emplace_back(IsaName(isa));
  }
  app.add_option("--isa", flags.isa, "Instruction set of the CPU; default: the best there is")
      ->check(CLI::IsMember(isas));
  app.add_flag("--no-rescoring", flags.no_rescoring,
               "Do not score the likeliest tokens again at 8 bits where the head has fewer; for comparisons");
  app.add_flag("--mapped-weights", flags.mapped_weights,
               "CPU: compute on the mapped file, not on a copy in memory; slower, but processes share it");
  app.add_option("--lookahead", flags.lookahead,
                 "1: send a step before the result of the one before it; 0: wait for every result")
      ->check(CLI::Range(0, 1))
      ->capture_default_str();
  app.add_option("--kv-cache-gb", flags.kv_cache_gb, "Size of the KV cache in GB; 0 = chosen from the model and memory")
      ->check(CLI::Range(0.0, 1e5))
      ->capture_default_str();
  AddLogLevelFlag(app, flags);
}

executor::ExecutorOptions ExecutorOptionsOf(const EmbeddedFlags& flags) {
  executor::ExecutorOptions options;
  options.model_dir = flags.model_dir;
  options.num_threads = flags.threads;
  options.pin_threads = flags.pin;
  options.device = flags.device;
  options.tensor_parallel = flags.tensor_parallel;
  options.isa = flags.isa;
  options.rescore = !flags.no_rescoring;
  options.mapped_weights = flags.mapped_weights;
  options.coarse_prompts = flags.prompt_activations == 8;
  options.kv_cache_bits = flags.kv_cache_bits;
  options.kv_cache_bytes = static_cast<uint64_t>(flags.kv_cache_gb * 1e9);
  return options;
}

void AddTensorParallelFlag(CLI::App& app, EmbeddedFlags& flags) {
  app.add_option("--tensor-parallel", flags.tensor_parallel,
                 "Ranks that the model is cut among, each with its share of weights, heads and threads, or a GPU")
      ->check(CLI::Range(1, executor::kMaxTensorParallel))
      ->capture_default_str();
}

void AddPromptActivationsFlag(CLI::App& app, EmbeddedFlags& flags) {
  app.add_option("--prompt-activations", flags.prompt_activations,
                 "CPU: bits of the activations that prompts are computed with; 8: faster, with a loss "
                 "(docs/performance-cpu.md)")
      ->check(CLI::IsMember({8, 15}))
      ->capture_default_str();
}

void AddKvCacheBitsFlag(CLI::App& app, EmbeddedFlags& flags) {
  app.add_option("--kv-cache-bits", flags.kv_cache_bits,
                 "CPU: bits of keys and values; 8: half the memory, and faster behind long contexts, with a loss "
                 "(docs/performance-cpu.md)")
      ->check(CLI::IsMember({8, 16}))
      ->capture_default_str();
}

void AddAuditFlag(CLI::App& app, EmbeddedFlags& flags) {
  app.add_option("--audit-rate", flags.audit_rate,
                 "Share of the tokens under a budget of KL whose KL is measured, by computing them at 8 bits too")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
}

void AddConnectionFlags(CLI::App& app, ConnectionFlags& flags) {
  auto* where = app.add_option_group("Where (exactly one)");
  where->add_option("--model", flags.embedded.model_dir, "Folder made by `flexquant convert`: run it in this process");
  auto* server = where->add_option("--server", flags.server, "HOST:PORT of a flexquant-controller or flexquant serve");
  where->require_option(1);
  auto* resume = app.add_option("--resume-seconds", flags.resume_seconds,
                                "How long to try to go on with an answer whose server was lost; 0 = not at all")
                     ->check(CLI::Range(0.0, 86400.0))
                     ->capture_default_str();
  resume->needs(server);
  AddSecurityFlags(app, flags, server);
  AddEmbeddedFlags(app, flags.embedded);
  AddTensorParallelFlag(app, flags.embedded);
  AddPromptActivationsFlag(app, flags.embedded);
  AddKvCacheBitsFlag(app, flags.embedded);
  AddAuditFlag(app, flags.embedded);
  ExcludeAll(server, app,
             {"--device", "--tensor-parallel", "--threads", "--pin", "--isa", "--no-rescoring", "--mapped-weights",
              "--prompt-activations", "--kv-cache-bits", "--lookahead", "--kv-cache-gb", "--audit-rate"});
}

void AddServerFlags(CLI::App& app, ConnectionFlags& flags) {
  auto* server = app.add_option("--server", flags.server, "HOST:PORT of a flexquant-controller or flexquant serve");
  server->required();
  AddSecurityFlags(app, flags, server);
  AddLogLevelFlag(app, flags.embedded);
}

absl::StatusOr<std::unique_ptr<EmbeddedServers>> EmbeddedServers::Start(
    const EmbeddedFlags& flags, const transport::ListenOptions& listen,
    std::function<void(const absl::Status&)> on_failure) {
  ConfigureLog(flags.log_level);
  auto servers = std::unique_ptr<EmbeddedServers>(new EmbeddedServers);
  executor::ExecutorOptions executor_options = ExecutorOptionsOf(flags);
  executor_options.on_failure = std::move(on_failure);
  FQ_ASSIGN_OR_RETURN(servers->executor_, executor::ExecutorServer::Create(executor_options));
  FQ_RETURN_IF_ERROR(Interrupt::Check());

  controller::ControllerOptions controller_options;
  controller_options.model_dir = flags.model_dir;
  controller_options.listen = listen;
  controller_options.tokens_file = flags.tokens_file;
  controller_options.executors = {{kInProcess, servers->executor_->InProcessChannel()}};
  controller_options.lookahead = flags.lookahead;
  controller_options.audit_rate = flags.audit_rate;
  FQ_ASSIGN_OR_RETURN(servers->controller_, controller::ControllerServer::Create(controller_options));
  FQ_RETURN_IF_ERROR(servers->controller_->WaitReady(kReadyTimeout));
  FQ_RETURN_IF_ERROR(Interrupt::Check());
  return servers;
}

void EmbeddedServers::Shutdown(absl::Duration grace) {
  if (controller_ != nullptr) {
    controller_->Shutdown(grace);
  }
  if (executor_ != nullptr) {
    executor_->Shutdown(absl::ZeroDuration());
  }
}

EmbeddedServers::~EmbeddedServers() { Shutdown(absl::ZeroDuration()); }

absl::StatusOr<std::unique_ptr<Connection>> Connection::Open(const ConnectionFlags& flags) {
  auto connection = std::unique_ptr<Connection>(new Connection);
  if (!flags.server.empty()) {
    ConfigureLog(flags.embedded.log_level);
    FQ_ASSIGN_OR_RETURN(connection->client_, ConnectToServer(flags));
    connection->client_->SetResumeFor(absl::Seconds(flags.resume_seconds));
    return connection;
  }
  FQ_ASSIGN_OR_RETURN(connection->servers_, EmbeddedServers::Start(flags.embedded, {}));
  connection->client_ =
      std::make_unique<client::Client>(connection->servers_->controller().InProcessChannel(), kInProcess);
  connection->client_->SetResumeFor(absl::ZeroDuration());  // they end with this process
  return connection;
}

void ConfigureLog(const std::string& level) { flexquant::ConfigureLog("flexquant", level, /*json=*/false); }

}  // namespace flexquant::cli
