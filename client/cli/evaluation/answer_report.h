#ifndef FLEXQUANT_CLIENT_CLI_EVALUATION_ANSWER_REPORT_H_
#define FLEXQUANT_CLIENT_CLI_EVALUATION_ANSWER_REPORT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/cli/connection.h"
#include "client/cli/evaluation/policy_report.h"
#include "common/store/model_store.h"

namespace flexquant::cli {

struct Prompts {
  struct Prompt {
    size_t index = 0;  // in the file
    std::string text;
  };
  std::vector<Prompt> prompts;
  std::string checksum;  // of the file
};

// Reads a file of prompts, a line of JSON each: the first of `turns`, or `prompt`. Keeps `limit` spread evenly over the
// file; 0 = all. INVALID_ARGUMENT names the line that does not fit.
absl::StatusOr<Prompts> ReadPrompts(const std::string& path, size_t limit);

// Greedy answers to prompts, served by a controller and an executor in this process, each sequence computed exactly at
// its policy's plans: how long they are, how much they repeat themselves, and how near they come to those of the
// unquantised weights (of 8 bits, if the model has no reference). Prompts go through the model's chat template where it
// has a known one.
absl::StatusOr<Json> ReportAnswers(const ReportContext& context, const Prompts& prompts, uint32_t max_tokens,
                                   const EmbeddedFlags& embedded, const ModelStore& store);

}  // namespace flexquant::cli

#endif  // FLEXQUANT_CLIENT_CLI_EVALUATION_ANSWER_REPORT_H_
