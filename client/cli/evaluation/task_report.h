#ifndef FLEXQUANT_CLIENT_CLI_EVALUATION_TASK_REPORT_H_
#define FLEXQUANT_CLIENT_CLI_EVALUATION_TASK_REPORT_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/cli/evaluation/policy_report.h"
#include "client/cli/evaluation/task_items.h"
#include "common/store/model_store.h"

namespace flexquant::cli {

// A task in a model's tokens.
struct TaskWindows {
  Task task;
  std::string checksum;               // of the file
  std::vector<PolicyWindow> windows;  // one an option, in order; its prompt is the context but the last token
};

// Reads tasks, each "NAME=FILE", at most `limit` items of each (0 = all). Errors of ReadTask; INVALID_ARGUMENT names an
// item that does not fit the model's context.
absl::StatusOr<std::vector<TaskWindows>> ReadTasks(const std::vector<std::string>& words, size_t limit,
                                                   const ModelStore& store);

// Accuracy of static widths and budgets. An option's log-likelihood is decoded token by token behind its context, whose
// last token is the first at the policy's plan. Against 8 bits: difference of accuracy and answers that changed, paired
// over items.
absl::StatusOr<Json> ReportTasks(const ReportContext& context, const std::vector<TaskWindows>& tasks);

}  // namespace flexquant::cli

#endif  // FLEXQUANT_CLIENT_CLI_EVALUATION_TASK_REPORT_H_
