#ifndef FLEXQUANT_CLIENT_CLI_COMMANDS_H_
#define FLEXQUANT_CLIENT_CLI_COMMANDS_H_

#include <functional>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"

namespace flexquant::cli {

// The chosen subcommand, its flags parsed: does the work. CANCELLED when stopped by a signal.
using RunCommand = std::function<absl::Status()>;

// Each adds one subcommand to `app`; parsing it sets `run`. Flags that do not go together throw CLI::ValidationError.
void AddConvert(CLI::App& app, RunCommand& run);
void AddCalibrate(CLI::App& app, RunCommand& run);
void AddInspect(CLI::App& app, RunCommand& run);
void AddGenerate(CLI::App& app, RunCommand& run);
void AddChat(CLI::App& app, RunCommand& run);
void AddServe(CLI::App& app, RunCommand& run);
void AddToken(CLI::App& app, RunCommand& run);
void AddInfo(CLI::App& app, RunCommand& run);
void AddTop(CLI::App& app, RunCommand& run);
void AddBench(CLI::App& app, RunCommand& run);
void AddEvaluate(CLI::App& app, RunCommand& run);
void AddLoadgen(CLI::App& app, RunCommand& run);
void AddCompletion(CLI::App& app, RunCommand& run);
void AddMan(CLI::App& app, RunCommand& run);

// Throws CLI::ValidationError with the status's message unless it is OK.
void RequireUsage(const absl::Status& status);

}  // namespace flexquant::cli

#endif  // FLEXQUANT_CLIENT_CLI_COMMANDS_H_
