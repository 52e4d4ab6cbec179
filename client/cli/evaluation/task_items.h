#ifndef FLEXQUANT_CLIENT_CLI_EVALUATION_TASK_ITEMS_H_
#define FLEXQUANT_CLIENT_CLI_EVALUATION_TASK_ITEMS_H_

#include <cstddef>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace flexquant::cli {

// How an item's answer follows from the log-likelihood of its options.
enum class TaskScore {
  kByBytes,  // the most likely option a byte: options are continuations of one context
  kBySum,    // the most likely option: options are contexts of one continuation
  kExact,    // whether greedy decoding gives the one option
};

struct TaskOption {
  std::string context;
  std::string continuation;  // begins with a blank
};

struct TaskItem {
  size_t index = 0;                 // in the file
  std::vector<TaskOption> options;  // one if the score is exact, else at least two
  size_t gold = 0;
};

struct Task {
  std::string name;
  TaskScore score = TaskScore::kByBytes;
  std::vector<TaskItem> items;
};

// Reads a file of one of four forms, told apart by what it holds:
// - lines of JSON with `query`, `choices`, `gold` (ARC, PIQA, OpenBookQA, BoolQ). "Answer:" goes below a query that
//   begins with "Question:" or "Passage:";
// - lines of JSON with `context_options`, `continuation`, `gold` (WinoGrande);
// - lines of JSON with `context`, `continuation` (LAMBADA);
// - records of six lines: context, gold, four endings (HellaSwag as in llama.cpp's text file).
// Keeps `limit` items spread evenly over the file; 0 = all. INVALID_ARGUMENT names the path and the line.
absl::StatusOr<Task> ReadTask(const std::string& name, const std::string& path, size_t limit);

}  // namespace flexquant::cli

#endif  // FLEXQUANT_CLIENT_CLI_EVALUATION_TASK_ITEMS_H_
