#ifndef FLEXQUANT_CLIENT_CLI_LINE_EDITOR_H_
#define FLEXQUANT_CLIENT_CLI_LINE_EDITOR_H_

#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"

namespace flexquant::cli {

// Lines typed at a terminal, edited with libedit's keys, and earlier ones kept in a file. Not thread-safe; one a
// process.
class LineEditor {
 public:
  // Null if standard input and error are not both a terminal, or in builds without libedit (FLEXQUANT_STATIC).
  // Characters are UTF-8 from here on (setlocale): call it before other threads run.
  // `history`: file to load earlier lines from and to keep them in, with its folder made if need be, both for this user
  // only; empty = none. A file that cannot be read counts as empty.
  static std::unique_ptr<LineEditor> Create(const std::string& history);
  virtual ~LineEditor() = default;

  // The next line without its newline; nullopt at the end. CANCELLED when asked to stop.
  virtual absl::StatusOr<std::optional<std::string>> ReadLine(const std::string& prompt) = 0;
  // Whether the line that CANCELLED cut short had text.
  virtual bool had_text() const = 0;
  // Adds a line to what Up brings back and to the file. Says what is wrong with the file, and goes on without it.
  virtual absl::Status Remember(const std::string& line) = 0;
};

// Where the chat's lines are kept: in XDG_STATE_HOME, or else ~/.local/state. Empty if there is no such place.
std::string HistoryFile();

}  // namespace flexquant::cli

#endif  // FLEXQUANT_CLIENT_CLI_LINE_EDITOR_H_
