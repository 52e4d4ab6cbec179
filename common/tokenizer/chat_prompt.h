#ifndef FLEXQUANT_COMMON_TOKENIZER_CHAT_PROMPT_H_
#define FLEXQUANT_COMMON_TOKENIZER_CHAT_PROMPT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/tokenizer/chat_template.h"
#include "common/tokenizer/tokenizer.h"

namespace flexquant {

// A prompt under construction. Text between two special tokens is tokenized in one piece, so that merges cross from the
// template's words into a message as they do when the whole prompt is rendered first.
class ChatPrompt {
 public:
  explicit ChatPrompt(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  // A token of the template. One the vocabulary lacks becomes text.
  void AddMark(absl::string_view text);
  // Nothing if the vocabulary has no such token.
  void AddBos();
  void AddEos();
  // Plain text of the template or a message: special tokens written in it stay text.
  void AddText(absl::string_view text);
  absl::StatusOr<std::vector<uint32_t>> Finish();

 private:
  void AddId(uint32_t id);

  const Tokenizer& tokenizer_;
  std::vector<uint32_t> ids_;
  std::string text_;
  absl::Status status_;
};

// Rules every template keeps: known roles, valid UTF-8, system only first, at least one user message.
// INVALID_ARGUMENT names the message.
absl::Status CheckConversation(const std::vector<ChatMessage>& messages);
// User and assistant by turns, beginning with the user, after an optional system message.
absl::Status CheckAlternates(const std::vector<ChatMessage>& messages);

}  // namespace flexquant

#endif  // FLEXQUANT_COMMON_TOKENIZER_CHAT_PROMPT_H_
