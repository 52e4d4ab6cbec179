#ifndef FLEXQUANT_COMMON_TOKENIZER_CHAT_TEMPLATE_H_
#define FLEXQUANT_COMMON_TOKENIZER_CHAT_TEMPLATE_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/tokenizer/tokenizer.h"

namespace flexquant {

struct ChatMessage {
  std::string role;  // "system", "user" or "assistant"
  std::string content;
};

// A recognised chat template. Immutable and thread-safe.
class ChatTemplate {
 public:
  virtual ~ChatTemplate() = default;
  // Recognises the tokenizer's template by what it contains (ChatML, SmolLM2, Qwen, Llama-2, Llama-3, Mistral).
  // UNIMPLEMENTED when it has none or an unknown one: the message shows its beginning and names the remedy (send `text`
  // or `token_ids` prompts).
  static absl::StatusOr<std::unique_ptr<ChatTemplate>> Recognize(const Tokenizer& tokenizer);

  virtual std::string name() const = 0;
  // Ids of the conversation up to where the assistant's next answer begins. Special tokens in message contents stay
  // plain text (a user cannot forge a turn). INVALID_ARGUMENT names the message: unknown role, system not first, no
  // user message, bad UTF-8.
  virtual absl::StatusOr<std::vector<uint32_t>> Render(const std::vector<ChatMessage>& messages) const = 0;
};

}  // namespace flexquant

#endif  // FLEXQUANT_COMMON_TOKENIZER_CHAT_TEMPLATE_H_
