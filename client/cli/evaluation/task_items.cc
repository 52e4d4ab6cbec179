#include "client/cli/evaluation/task_items.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "client/cli/json_output.h"
#include "common/mapped_file.h"
#include "common/status_macros.h"

namespace flexquant::cli {
namespace {

constexpr size_t kEndings = 4;
constexpr size_t kRecordLines = 2 + kEndings;

std::string Trimmed(absl::string_view text) { return std::string(absl::StripAsciiWhitespace(text)); }

TaskOption Option(const std::string& context, absl::string_view continuation) {
  return {context, absl::StrCat(" ", Trimmed(continuation))};
}

bool IsStrings(const Json& line, const char* field) {
  if (!line.contains(field) || !line[field].is_array() || line[field].size() < 2) {
    return false;
  }
  for (const Json& element : line[field]) {
    if (!element.is_string()) {
      return false;
    }
  }
  return true;
}

bool IsString(const Json& line, const char* field) { return line.contains(field) && line[field].is_string(); }

std::string Context(const std::string& query) {
  const bool question = absl::StartsWith(query, "Question:") || absl::StartsWith(query, "Passage:");
  return question ? absl::StrCat(Trimmed(query), "\nAnswer:") : Trimmed(query);
}

// Puts a line's options into `item`; the score that goes with its form. INVALID_ARGUMENT for no known form.
absl::StatusOr<TaskScore> ReadLine(const Json& line, TaskItem& item) {
  if (line.is_object() && IsString(line, "query") && IsStrings(line, "choices")) {
    for (const Json& choice : line["choices"]) {
      item.options.push_back(Option(Context(line["query"].get<std::string>()), choice.get<std::string>()));
    }
  } else if (line.is_object() && IsStrings(line, "context_options") && IsString(line, "continuation")) {
    for (const Json& context : line["context_options"]) {
      item.options.push_back(Option(Trimmed(context.get<std::string>()), line["continuation"].get<std::string>()));
    }
  } else if (line.is_object() && IsString(line, "context") && IsString(line, "continuation")) {
    item.options.push_back(
        Option(Trimmed(line["context"].get<std::string>()), line["continuation"].get<std::string>()));
    return TaskScore::kExact;
  } else {
    return absl::InvalidArgumentError(
        "is no item: give query, choices, gold; context_options, continuation, gold; or context, continuation");
  }
  if (!line.contains("gold") || !line["gold"].is_number_unsigned() || line["gold"] >= item.options.size()) {
    return absl::InvalidArgumentError("has no gold that is an option's index");
  }
  item.gold = line["gold"].get<size_t>();
  return line.contains("choices") ? TaskScore::kByBytes : TaskScore::kBySum;
}

absl::Status AtLine(const std::string& path, size_t line, absl::string_view fault) {
  return absl::InvalidArgumentError(absl::StrCat(path, ":", line + 1, ": ", fault));
}

absl::Status ReadJsonLines(const std::vector<absl::string_view>& lines, const std::string& path, Task& task) {
  for (size_t i = 0; i < lines.size(); ++i) {
    TaskItem item;
    item.index = i;
    const auto score = ReadLine(Json::parse(lines[i], nullptr, /*allow_exceptions=*/false), item);
    if (!score.ok()) {
      return AtLine(path, i, score.status().message());
    }
    if (i > 0 && *score != task.score) {
      return AtLine(path, i, "is of another form than the lines before");
    }
    task.score = *score;
    task.items.push_back(std::move(item));
  }
  return absl::OkStatus();
}

absl::Status ReadRecords(const std::vector<absl::string_view>& lines, const std::string& path, Task& task) {
  if (lines.size() % kRecordLines != 0) {
    return AtLine(path, lines.size(), "records of six lines: context, gold, four endings; lines of JSON begin with {");
  }
  for (size_t begin = 0; begin < lines.size(); begin += kRecordLines) {
    TaskItem item;
    item.index = begin / kRecordLines;
    if (!absl::SimpleAtoi(lines[begin + 1], &item.gold) || item.gold >= kEndings) {
      return AtLine(path, begin + 1, "is not 0, 1, 2 or 3");
    }
    for (size_t i = 0; i < kEndings; ++i) {
      item.options.push_back(Option(Trimmed(lines[begin]), lines[begin + 2 + i]));
    }
    task.items.push_back(std::move(item));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Task> ReadTask(const std::string& name, const std::string& path, size_t limit) {
  FQ_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  const std::vector<absl::string_view> lines = absl::StrSplit(text, '\n', absl::SkipWhitespace());
  Task task;
  task.name = name;
  FQ_RETURN_IF_ERROR(absl::StartsWith(text, "{") ? ReadJsonLines(lines, path, task) : ReadRecords(lines, path, task));
  if (task.items.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(path, " is empty"));
  }
  const size_t all = task.items.size();
  if (limit > 0 && limit < all) {
    std::vector<TaskItem> some;
    for (size_t i = 0; i < limit; ++i) {
      some.push_back(std::move(task.items[i * all / limit]));
    }
    task.items = std::move(some);
  }
  return task;
}

}  // namespace flexquant::cli
