// flexquant-gateway: parses flags, serves OpenAI's API in front of a server, drains on SIGTERM or SIGINT.

#include <csignal>
#include <cstdlib>
#include <fstream>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "client/gateway/gateway.h"
#include "common/log.h"
#include "common/mapped_file.h"
#include "common/status_macros.h"
#include "common/stop_signals.h"
#include "spdlog/spdlog.h"
#include "transport/bearer_token.h"
#include "transport/listen_flags.h"

namespace {

using flexquant::gateway::GatewayOptions;

struct Flags {
  GatewayOptions options;
  std::string token_file;
  std::string port_file;
  std::string log_level = "info";
  std::string log_format = "text";
  double resume_seconds = 30;
  double drain_seconds = 25;  // below Kubernetes' 30 s of grace
  double max_body_mb = 8;
};

void AddServerFlags(CLI::App& app, Flags& flags) {
  app.add_option("--server", flags.options.server, "HOST:PORT of a flexquant-controller or flexquant serve")
      ->required();
  flexquant::transport::ConnectOptions& security = flags.options.connect.security;
  app.add_flag("--tls", security.tls,
               "Reach the server with TLS and the system's authorities; each of the next four means TLS too");
  app.add_option("--ca", security.files.ca, "PEM file of the authorities of the server's certificate");
  auto* certificate =
      app.add_option("--cert", security.files.certificate, "PEM file of the gateway's certificate there");
  auto* key = app.add_option("--key", security.files.key, "PEM file of its key, without a passphrase");
  certificate->needs(key);
  key->needs(certificate);
  app.add_option("--server-name", security.server_name,
                 "Name in the server's certificate; default: the host of --server");
  app.add_option("--token-file", flags.token_file,
                 "File with the bearer token of all requests; default: the keys that clients send are passed on");
  app.add_flag("--allow-plaintext-token", flags.options.connect.allow_plaintext_token,
               "Send tokens and keys to another machine without TLS, readable for whoever listens");
  app.add_option("--resume-seconds", flags.resume_seconds,
                 "How long to try to go on with an answer whose server was lost; 0 = not at all")
      ->check(CLI::Range(0.0, 86400.0))
      ->capture_default_str();
}

void AddFlags(CLI::App& app, Flags& flags) {
  app.set_version_flag("--version", FLEXQUANT_VERSION);
  AddServerFlags(app, flags);
  flags.options.http.listen.address = "127.0.0.1:8080";
  flexquant::transport::AddListenFlags(app, flags.options.http.listen);
  app.add_option("--cors-origin", flags.options.cors_origins,
                 "Origin of pages that may call from browsers, such as https://chat.example.com, or *; repeat for "
                 "several; default: only the gateway's own page");
  app.add_option("--max-connections", flags.options.http.max_connections, "Connections at a time, each with a thread")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  app.add_option("--max-body-mb", flags.max_body_mb, "Largest request in MB")
      ->check(CLI::Range(0.001, 15.0))
      ->capture_default_str();
  app.add_option("--drain-seconds", flags.drain_seconds, "How long running answers may go on after SIGTERM")
      ->check(CLI::Range(0.0, 86400.0))
      ->capture_default_str();
  app.add_option("--log-format", flags.log_format, "text or json: one object a line")
      ->check(CLI::IsMember({"text", "json"}))
      ->capture_default_str();
  app.add_option("--log-level", flags.log_level, "trace, debug, info, warn, error or off")
      ->check(CLI::IsMember({"trace", "debug", "info", "warn", "error", "off"}))
      ->capture_default_str();
  app.add_option("--port-file", flags.port_file, "File to write the port to once it is open");
}

// What `--token-file` names, any kind of file; empty without it.
absl::StatusOr<std::string> ReadToken(const std::string& path) {
  if (path.empty()) {
    return std::string();
  }
  std::ifstream file(path, std::ios::binary);
  std::string text(flexquant::transport::kMaxTokenBytes + 2, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(file.gcount()));
  absl::StripAsciiWhitespace(&text);
  if (text.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("--token-file ", path, " is empty or cannot be read"));
  }
  return text;
}

absl::Status Serve(Flags& flags, const sigset_t& signals) {
  GatewayOptions& options = flags.options;
  FQ_ASSIGN_OR_RETURN(options.connect.token, ReadToken(flags.token_file));
  options.resume_for = absl::Seconds(flags.resume_seconds);
  options.http.limits.max_request_bytes = static_cast<size_t>(flags.max_body_mb * 1e6);
  FQ_ASSIGN_OR_RETURN(const auto gateway, flexquant::gateway::Gateway::Start(options));
  if (!flags.port_file.empty()) {
    FQ_RETURN_IF_ERROR(flexquant::WriteFile(flags.port_file, std::to_string(gateway->port()) + "\n"));
  }
  flexquant::WaitForStopSignal(signals, [](int second) { std::_Exit(128 + second); });
  gateway->Shutdown(absl::Seconds(flags.drain_seconds));
  spdlog::info("stopped");
  return absl::OkStatus();
}

}  // namespace

int main(int argc, char** argv) {
  const sigset_t signals = flexquant::BlockStopSignals();

  CLI::App app("FlexQuant gateway: OpenAI's API over HTTP, and a page, in front of a FlexQuant server.");
  Flags flags;
  AddFlags(app, flags);
  CLI11_PARSE(app, argc, argv);
  flexquant::ConfigureLog("gateway", flags.log_level, flags.log_format == "json");
  if (const absl::Status status = Serve(flags, signals); !status.ok()) {
    spdlog::error("{}", std::string(status.message()));
    return EXIT_FAILURE;
  }
  return EXIT_SUCCESS;
}
