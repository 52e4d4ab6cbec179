#ifndef FLEXQUANT_CLIENT_CLI_EVALUATION_EVALUATION_REPORT_H_
#define FLEXQUANT_CLIENT_CLI_EVALUATION_EVALUATION_REPORT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"
#include "client/cli/connection.h"
#include "client/cli/policy_cases.h"
#include "client/cli/policy_evaluation.h"
#include "client/cli/text_windows.h"
#include "common/store/model_store.h"

namespace flexquant::cli {

struct ReportFlags {
  std::string folder;  // empty = no report
  std::vector<double> budgets = {0.003, 0.01, 0.03, 0.1};
  size_t oracle_windows = 4;
  bool ablations = false;
  std::string other_calibration;   // folder; empty = none
  std::vector<std::string> tasks;  // "NAME=FILE"
  size_t limit = 0;                // items of a task, and prompts; 0 = all
  std::string prompts;             // file; empty = none
  uint32_t answer_tokens = 128;
};

// --report and what goes with it.
void AddReportFlags(CLI::App& app, ReportFlags& flags);

// Runs every policy and its controls on `windows`, tasks and prompts if given, and writes to the report's folder, which
// is made if need be: report.json, report.html (without outside resources), report.md (the tables), and measured.jsonl,
// from which an interrupted run goes on and whose numbers are not measured again. Prints a summary, or the JSON if
// `json`. FAILED_PRECONDITION for a model that is not calibrated; CANCELLED on Ctrl-C, within a step.
absl::Status MakeReport(const ReportFlags& flags, const PolicyFlags& policy, const TextWindowOptions& text,
                        const std::vector<std::vector<uint32_t>>& windows, const EmbeddedFlags& embedded,
                        const ModelStore& store, const PolicyRunners& runners, bool json);

}  // namespace flexquant::cli

#endif  // FLEXQUANT_CLIENT_CLI_EVALUATION_EVALUATION_REPORT_H_
