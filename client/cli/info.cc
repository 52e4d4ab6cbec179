#include <cstdio>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/cli/commands.h"
#include "client/cli/connection.h"
#include "client/cli/interrupt.h"
#include "client/cli/json_output.h"
#include "common/status_macros.h"

namespace flexquant::cli {
namespace {

constexpr absl::Duration kInfoTimeout = absl::Seconds(10);

struct Flags {
  ConnectionFlags connection;
  double wait_seconds = 0;
  bool json = false;
};

std::string InfoText(const v1::ServerInfo& info) {
  const auto line = [](const char* name, const std::string& value) {
    return absl::StrFormat("%-12s %s\n", name, value);
  };
  std::string text = line(
      "model", absl::StrCat(info.model(), " (", info.family(), "), revision ", info.model_revision().substr(0, 16)));
  text += line("size", absl::StrFormat("%.4g million parameters, vocabulary %d, context %d tokens",
                                       static_cast<double>(info.num_parameters()) * 1e-6, info.vocab_size(),
                                       info.context_tokens()));
  text += line("precisions",
               absl::StrCat(absl::StrJoin(info.precisions(), " "), info.has_reference() ? " 16" : "", " bits"));
  text += line("chat", info.has_chat_template() ? "yes" : "no (no template of a known family)");
  for (const auto& plan : info.named_plans()) {
    text += line("plan", absl::StrFormat("%s, mean %.2f bits", plan.name(), plan.mean_bits()));
  }
  for (const auto& executor : info.executors()) {
    const auto tokens = [&](uint32_t blocks) { return uint64_t{blocks} * executor.kv_block_tokens(); };
    text += line("executor", absl::StrFormat("%s, %s, %s, KV cache of %d tokens (%d in use by %d sequences)",
                                             executor.address(), executor.ready() ? "ready" : "not ready",
                                             executor.device(), tokens(executor.num_kv_blocks()),
                                             tokens(executor.kv_blocks_used()), executor.running_sequences()));
  }
  text += line("load",
               absl::StrFormat("%d requests running, %d waiting", info.running_requests(), info.waiting_requests()));
  text +=
      line("server", absl::StrCat(info.server_version(), ", ", info.api_version(), ", instance ", info.instance_id()));
  return text;
}

absl::Status RunInfo(const Flags& flags) {
  FQ_ASSIGN_OR_RETURN(const auto connection, Connection::Open(flags.connection));
  client::CancelToken cancel;
  const Interrupt::Action on_interrupt([&cancel] { cancel.Cancel(); });
  if (flags.wait_seconds > 0) {
    FQ_RETURN_IF_ERROR(
        connection->client().WaitReady({.timeout = absl::Seconds(flags.wait_seconds), .cancel = &cancel}));
  }
  FQ_ASSIGN_OR_RETURN(const v1::ServerInfo info,
                      connection->client().GetServerInfo({.timeout = kInfoTimeout, .cancel = &cancel}));
  if (flags.json) {
    PrintJson(MessageToJson(info));
  } else {
    std::fputs(InfoText(info).c_str(), stdout);
  }
  return absl::OkStatus();
}

}  // namespace

void AddInfo(CLI::App& app, RunCommand& run) {
  auto flags = std::make_shared<Flags>();
  auto* command = app.add_subcommand("info", "What a server or a package serves");
  AddConnectionFlags(*command, flags->connection);
  command->add_option("--wait", flags->wait_seconds, "Seconds to wait until the server says that it is ready")
      ->check(CLI::Range(0.0, 86400.0));
  command->add_flag("--json", flags->json, "Print JSON");
  command->callback([flags, &run] { run = [flags] { return RunInfo(*flags); }; });
}

}  // namespace flexquant::cli
