#ifndef FLEXQUANT_COMMON_TOKENIZER_CHAT_STYLES_H_
#define FLEXQUANT_COMMON_TOKENIZER_CHAT_STYLES_H_

#include <memory>
#include <string>

#include "common/tokenizer/chat_template.h"
#include "common/tokenizer/tokenizer.h"

namespace flexquant {

// What tells the templates of a family apart. The made templates keep `tokenizer`, which must outlive them.

// <|im_start|>role, newline, content, <|im_end|>, newline.
struct ChatMlStyle {
  std::string name;
  std::string default_system;  // put in front when the first message is no system message; empty = nothing
  std::string opening;         // what the template writes at the start of the answer
  bool bos = false;
  bool qwen3_thoughts = false;  // answers before the last question lose their <think> block, later ones get one
};

// <|start_header_id|>role<|end_header_id|>, two newlines, content, <|eot_id|>.
struct Llama3Style {
  // First lines of the system message in 3.1 and later; there, a system message is always written. Empty in 3.0.
  std::string dates;
  bool trim = true;
};

// [INST] question [/INST] answer, end of sequence: Llama 2 and Mistral.
struct InstructionStyle {
  enum class System { kRefused, kLlama2, kFirstQuestion, kLastQuestion };
  std::string name;
  std::string open;   // "[INST]" and its blanks
  std::string close;  // "[/INST]" and its blanks
  std::string before_answer;
  std::string before_eos;
  std::string after_eos;
  bool bos = false;
  bool bos_each_question = false;
  bool trim_question = false;
  bool trim_answer = false;
  System system = System::kRefused;
};

std::unique_ptr<ChatTemplate> MakeChatMl(const Tokenizer& tokenizer, ChatMlStyle style);
std::unique_ptr<ChatTemplate> MakeLlama3(const Tokenizer& tokenizer, Llama3Style style);
std::unique_ptr<ChatTemplate> MakeInstructions(const Tokenizer& tokenizer, InstructionStyle style);

}  // namespace flexquant

#endif  // FLEXQUANT_COMMON_TOKENIZER_CHAT_STYLES_H_
