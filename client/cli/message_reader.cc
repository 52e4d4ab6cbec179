#include "client/cli/message_reader.h"

#include <csignal>
#include <cstdio>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "client/cli/interrupt.h"
#include "common/status_macros.h"
#include "proto/grpc_status.h"

namespace flexquant::cli {
namespace {

constexpr char kBlockMark[] = "\"\"\"";
constexpr char kPrompt[] = "> ";
constexpr char kMorePrompt[] = ". ";

}  // namespace

absl::StatusOr<std::optional<std::string>> MessageReader::ReadLine(const char* prompt) {
  if (editor_ == nullptr) {
    std::fputs(prompt, stderr);
    return input_.ReadLine();
  }
  FQ_ASSIGN_OR_RETURN(auto line, editor_->ReadLine(prompt));
  if (line.has_value() && !line->empty()) {
    if (const absl::Status kept = editor_->Remember(*line); !kept.ok()) {
      std::fprintf(stderr, "%s\n", DescribeStatus(kept).c_str());
    }
  }
  return line;
}

absl::StatusOr<std::optional<MessageReader::Message>> MessageReader::ReadLines(bool& begun) {
  begun = false;
  FQ_ASSIGN_OR_RETURN(std::optional<std::string> line, ReadLine(kPrompt));
  if (!line.has_value()) {
    return std::nullopt;
  }
  begun = true;
  Message message;
  if (!absl::StartsWith(*line, kBlockMark)) {
    message.command = absl::StartsWith(*line, "/");
    while (line.has_value() && absl::EndsWith(*line, "\\")) {
      line->back() = '\n';
      message.text += *line;
      FQ_ASSIGN_OR_RETURN(line, ReadLine(kMorePrompt));
    }
    message.text += line.value_or("");
    return message;
  }
  line->erase(0, sizeof kBlockMark - 1);
  while (line.has_value()) {
    const bool last = absl::EndsWith(*line, kBlockMark);
    absl::StrAppend(&message.text, absl::StripSuffix(*line, kBlockMark));
    if (last) {
      break;
    }
    message.text += '\n';
    FQ_ASSIGN_OR_RETURN(line, ReadLine(kMorePrompt));
  }
  // The marks may have lines of their own.
  message.text = std::string(absl::StripSuffix(absl::StripPrefix(message.text, "\n"), "\n"));
  return message;
}

absl::StatusOr<std::optional<MessageReader::Message>> MessageReader::Read() {
  while (true) {
    bool begun = false;
    auto message = ReadLines(begun);
    const bool typed = editor_ != nullptr && (begun || editor_->had_text());
    if (message.ok() || !typed || Interrupt::Signal() != SIGINT) {
      return message;
    }
    Interrupt::Reset();
  }
}

}  // namespace flexquant::cli
