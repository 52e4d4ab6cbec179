#include <cstdio>
#include <memory>
#include <string>

#include "client/cli/commands.h"
#include "client/cli/json_output.h"
#include "common/status_macros.h"
#include "controller/token_table.h"
#include "transport/bearer_token.h"

namespace flexquant::cli {
namespace {

absl::Status RunNewToken(const std::string& tenant) {
  FQ_ASSIGN_OR_RETURN(const std::string token, transport::NewToken());
  const Json entry = {{"tenant", tenant}, {"sha256", transport::ToHex(transport::Sha256(token))}};
  FQ_RETURN_IF_ERROR(controller::TokenTable::Parse(
                         Json::array({entry}).dump(-1, ' ', true, Json::error_handler_t::replace), "--tenant")
                         .status());
  std::printf("%s\n%s\n", token.c_str(), entry.dump().c_str());
  std::fputs(
      "The first line is the token, for the tenant: it is kept nowhere. The second is for the list in the file of "
      "--tokens.\n",
      stderr);
  return absl::OkStatus();
}

}  // namespace

void AddToken(CLI::App& app, RunCommand& run) {
  auto tenant = std::make_shared<std::string>();
  auto* command = app.add_subcommand("token", "Bearer tokens for the file of --tokens");
  command->require_subcommand(1);
  auto* make = command->add_subcommand("new", "Make a random token and the file's entry for it");
  make->add_option("--tenant", *tenant, "Whose requests the token stands for")->required();
  make->callback([tenant, &run] { run = [tenant] { return RunNewToken(*tenant); }; });
}

}  // namespace flexquant::cli
