#include "common/tokenizer/chat_styles.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/tokenizer/chat_prompt.h"
#include "common/tokenizer/utf8.h"

namespace flexquant {
namespace {

class ChatMl : public ChatTemplate {
 public:
  ChatMl(const Tokenizer& tokenizer, ChatMlStyle style) : tokenizer_(tokenizer), style_(std::move(style)) {}

  std::string name() const override { return style_.name; }

  absl::StatusOr<std::vector<uint32_t>> Render(const std::vector<ChatMessage>& messages) const override {
    FQ_RETURN_IF_ERROR(CheckConversation(messages));
    ChatPrompt prompt(tokenizer_);
    if (style_.bos) prompt.AddBos();
    if (messages[0].role != "system" && !style_.default_system.empty()) {
      AddTurn("system", style_.default_system, &prompt);
    }
    for (size_t i = 0; i < messages.size(); ++i) {
      AddTurn(messages[i].role, HistoryContent(messages, i), &prompt);
    }
    prompt.AddMark("<|im_start|>");
    AddWithThinkMarks(absl::StrCat("assistant\n", style_.opening), &prompt);
    return prompt.Finish();
  }

 protected:
  // What the template shows of message i.
  virtual std::string HistoryContent(const std::vector<ChatMessage>& messages, size_t i) const {
    return messages[i].content;
  }

 private:
  static void AddTurn(absl::string_view role, absl::string_view content, ChatPrompt* prompt) {
    prompt->AddMark("<|im_start|>");
    prompt->AddText(role);
    prompt->AddText("\n");
    prompt->AddText(content);
    prompt->AddMark("<|im_end|>");
    prompt->AddText("\n");
  }

  // Vocabularies may call <think> a control token, which plain text does not reach.
  static void AddWithThinkMarks(absl::string_view text, ChatPrompt* prompt) {
    constexpr absl::string_view kThink = "<think>";
    const size_t at = text.find(kThink);
    prompt->AddText(text.substr(0, at));
    if (at == absl::string_view::npos) return;
    prompt->AddMark(kThink);
    prompt->AddText(text.substr(at + kThink.size()));
  }

  const Tokenizer& tokenizer_;
  ChatMlStyle style_;
};

absl::string_view TrimNewlines(absl::string_view text, bool left, bool right) {
  while (left && absl::StartsWith(text, "\n")) text.remove_prefix(1);
  while (right && absl::EndsWith(text, "\n")) text.remove_suffix(1);
  return text;
}

class Qwen3 : public ChatMl {
 public:
  using ChatMl::ChatMl;

 protected:
  std::string HistoryContent(const std::vector<ChatMessage>& messages, size_t i) const override {
    if (messages[i].role != "assistant") return messages[i].content;
    constexpr absl::string_view kOpen = "<think>";
    constexpr absl::string_view kClose = "</think>";
    absl::string_view answer = messages[i].content;
    absl::string_view thoughts;
    if (const size_t last = answer.rfind(kClose); last != absl::string_view::npos) {
      thoughts = TrimNewlines(answer.substr(0, answer.find(kClose)), false, true);
      if (const size_t open = thoughts.rfind(kOpen); open != absl::string_view::npos) {
        thoughts.remove_prefix(open + kOpen.size());
      }
      thoughts = TrimNewlines(thoughts, true, true);
      answer = TrimNewlines(answer.substr(last + kClose.size()), true, false);
    }
    const bool is_last = i + 1 == messages.size();
    if (i <= LastQuestion(messages) || (!is_last && thoughts.empty())) return std::string(answer);
    return absl::StrCat("<think>\n", thoughts, "\n</think>\n\n", TrimNewlines(answer, true, false));
  }

 private:
  static size_t LastQuestion(const std::vector<ChatMessage>& messages) {
    for (size_t i = messages.size(); i-- > 0;) {
      const std::string& content = messages[i].content;
      const bool is_tool_result =
          absl::StartsWith(content, "<tool_response>") && absl::EndsWith(content, "</tool_response>");
      if (messages[i].role == "user" && !is_tool_result) return i;
    }
    return messages.size() - 1;
  }
};

class Llama3 : public ChatTemplate {
 public:
  Llama3(const Tokenizer& tokenizer, Llama3Style style) : tokenizer_(tokenizer), style_(std::move(style)) {}

  std::string name() const override { return style_.dates.empty() ? "llama-3" : "llama-3.1"; }

  absl::StatusOr<std::vector<uint32_t>> Render(const std::vector<ChatMessage>& messages) const override {
    FQ_RETURN_IF_ERROR(CheckConversation(messages));
    ChatPrompt prompt(tokenizer_);
    prompt.AddBos();
    const bool has_system = messages[0].role == "system";
    if (!style_.dates.empty()) {
      const absl::string_view system = has_system ? absl::string_view(messages[0].content) : absl::string_view();
      AddTurn("system", absl::StrCat(style_.dates, Trimmed(system)), &prompt);
    }
    for (size_t i = has_system && !style_.dates.empty() ? 1 : 0; i < messages.size(); ++i) {
      AddTurn(messages[i].role, Trimmed(messages[i].content), &prompt);
    }
    AddHeader("assistant", &prompt);
    return prompt.Finish();
  }

 private:
  absl::string_view Trimmed(absl::string_view text) const { return style_.trim ? StripSpace(text) : text; }
  static void AddHeader(absl::string_view role, ChatPrompt* prompt) {
    prompt->AddMark("<|start_header_id|>");
    prompt->AddText(role);
    prompt->AddMark("<|end_header_id|>");
    prompt->AddText("\n\n");
  }
  static void AddTurn(absl::string_view role, absl::string_view content, ChatPrompt* prompt) {
    AddHeader(role, prompt);
    prompt->AddText(content);
    prompt->AddMark("<|eot_id|>");
  }

  const Tokenizer& tokenizer_;
  Llama3Style style_;
};

class Instructions : public ChatTemplate {
 public:
  Instructions(const Tokenizer& tokenizer, InstructionStyle style) : tokenizer_(tokenizer), style_(std::move(style)) {}

  std::string name() const override { return style_.name; }

  absl::StatusOr<std::vector<uint32_t>> Render(const std::vector<ChatMessage>& messages) const override {
    FQ_RETURN_IF_ERROR(CheckConversation(messages));
    FQ_RETURN_IF_ERROR(CheckAlternates(messages));
    const size_t first = messages[0].role == "system" ? 1 : 0;
    if (first == 1 && style_.system == InstructionStyle::System::kRefused) {
      return absl::InvalidArgumentError(
          "messages[0] is a system message, which this model's template does not take; put its text into the first "
          "user message");
    }
    ChatPrompt prompt(tokenizer_);
    if (style_.bos) prompt.AddBos();
    for (size_t i = first; i < messages.size(); ++i) {
      if (messages[i].role == "user") {
        AddQuestion(messages, i, first, &prompt);
      } else {
        prompt.AddText(style_.before_answer);
        prompt.AddText(style_.trim_answer ? StripSpace(messages[i].content) : messages[i].content);
        prompt.AddText(style_.before_eos);
        prompt.AddEos();
        prompt.AddText(style_.after_eos);
      }
    }
    return prompt.Finish();
  }

 private:
  void AddQuestion(const std::vector<ChatMessage>& messages, size_t i, size_t first, ChatPrompt* prompt) const {
    using System = InstructionStyle::System;
    std::string content = messages[i].content;
    if (first == 1) {
      const std::string& system = messages[0].content;
      if (style_.system == System::kLlama2 && i == first) {
        content = absl::StrCat("<<SYS>>\n", system, "\n<</SYS>>\n\n", content);
      } else if ((style_.system == System::kFirstQuestion && i == first) ||
                 (style_.system == System::kLastQuestion && i + 1 == messages.size())) {
        content = absl::StrCat(system, "\n\n", content);
      }
    }
    if (style_.bos_each_question) prompt->AddBos();
    AddWithMark(style_.open, "[INST]", prompt);
    prompt->AddText(style_.trim_question ? StripSpace(content) : absl::string_view(content));
    AddWithMark(style_.close, "[/INST]", prompt);
  }

  // `text` with `mark` in it as a token, where the vocabulary has one.
  static void AddWithMark(absl::string_view text, absl::string_view mark, ChatPrompt* prompt) {
    const size_t at = text.find(mark);
    prompt->AddText(text.substr(0, at));
    prompt->AddMark(mark);
    prompt->AddText(text.substr(at + mark.size()));
  }

  const Tokenizer& tokenizer_;
  InstructionStyle style_;
};

}  // namespace

std::unique_ptr<ChatTemplate> MakeChatMl(const Tokenizer& tokenizer, ChatMlStyle style) {
  if (style.qwen3_thoughts) return std::make_unique<Qwen3>(tokenizer, std::move(style));
  return std::make_unique<ChatMl>(tokenizer, std::move(style));
}

std::unique_ptr<ChatTemplate> MakeLlama3(const Tokenizer& tokenizer, Llama3Style style) {
  return std::make_unique<Llama3>(tokenizer, std::move(style));
}

std::unique_ptr<ChatTemplate> MakeInstructions(const Tokenizer& tokenizer, InstructionStyle style) {
  return std::make_unique<Instructions>(tokenizer, std::move(style));
}

}  // namespace flexquant
