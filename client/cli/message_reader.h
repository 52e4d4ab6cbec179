#ifndef FLEXQUANT_CLIENT_CLI_MESSAGE_READER_H_
#define FLEXQUANT_CLIENT_CLI_MESSAGE_READER_H_

#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "client/cli/input.h"
#include "client/cli/line_editor.h"

namespace flexquant::cli {

// What is said in a chat, from standard input. A line that ends in \ goes on in the next one; """ begins and ends a
// block of lines. Not thread-safe.
class MessageReader {
 public:
  struct Message {
    std::string text;
    bool command = false;  // begins with / outside a block
  };

  // On a terminal with editing and history: see LineEditor::Create.
  MessageReader() : editor_(LineEditor::Create(HistoryFile())) {}

  // nullopt at the end of input. Ctrl-C at a terminal forgets what was typed; where nothing was, and elsewhere:
  // CANCELLED.
  absl::StatusOr<std::optional<Message>> Read();

 private:
  absl::StatusOr<std::optional<Message>> ReadLines(bool& begun);
  absl::StatusOr<std::optional<std::string>> ReadLine(const char* prompt);

  Input input_;
  std::unique_ptr<LineEditor> editor_;
};

}  // namespace flexquant::cli

#endif  // FLEXQUANT_CLIENT_CLI_MESSAGE_READER_H_
