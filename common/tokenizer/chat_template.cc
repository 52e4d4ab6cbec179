#include "common/tokenizer/chat_template.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/tokenizer/chat_styles.h"
#include "common/tokenizer/jinja_text.h"
#include "common/tokenizer/utf8.h"

namespace flexquant {
namespace {

constexpr size_t kShownTemplateBytes = 120;
// Fallback of Llama 3.1's own template.
constexpr char kLlama3Date[] = "26 Jul 2024";

std::string Quoted(absl::string_view text) {
  const std::string quote(1, kJinjaQuote);
  return absl::StrReplaceAll(text, {{"'", quote}});
}

// Each reader returns null when a mark says that the template does something the family's others do not.

std::unique_ptr<ChatTemplate> ReadLlama3(const Tokenizer& tokenizer, const JinjaText& jinja) {
  if (!jinja.Contains("assistant<|end_header_id|>\n\n") && !jinja.Contains(Quoted("'assistant'"))) return nullptr;
  Llama3Style style;
  style.trim = jinja.Contains("trim") || jinja.Contains("strip()");
  if (jinja.Contains("Cutting Knowledge Date")) {
    const std::string cut = jinja.Between("Cutting Knowledge Date: ", "\n");
    std::string today = jinja.Between(Quoted("date_string = '"), Quoted("'"));
    if (today.empty()) today = kLlama3Date;
    if (cut.empty() || !jinja.Contains("Today Date: ")) return nullptr;
    style.dates = absl::StrCat("Cutting Knowledge Date: ", cut, "\nToday Date: ", today, "\n\n");
  }
  return MakeLlama3(tokenizer, std::move(style));
}

std::unique_ptr<ChatTemplate> ReadChatMl(const Tokenizer& tokenizer, const JinjaText& jinja) {
  for (const absl::string_view unlike : {"strftime_now", "reasoning_mode", "<|im_sep|>", "| trim", "|trim"}) {
    if (jinja.Contains(unlike)) return nullptr;
  }
  const bool ends_line = jinja.Contains("<|im_end|>\n") || jinja.Contains(Quoted("<|im_end|>' + '\n")) ||
                         jinja.Contains(Quoted("<|im_end|>'+'\n"));
  if (!ends_line || !jinja.Contains("<|im_start|>assistant\n")) return nullptr;
  ChatMlStyle style;
  style.default_system = jinja.Between("<|im_start|>system\n", "<|im_end|>");
  style.opening = jinja.Between("<|im_start|>assistant\n", Quoted("'"));
  style.bos = jinja.Contains("bos_token");
  style.name = "chatml";
  if (absl::StrContains(style.default_system, "SmolLM")) style.name = "smollm2";
  if (absl::StartsWith(style.default_system, "You are a helpful assistant") ||
      absl::StrContains(style.default_system, "Qwen")) {
    style.name = "qwen2";
  }
  if (jinja.Contains("</think>")) {
    if (!jinja.Contains("last_query_index")) return nullptr;
    style.qwen3_thoughts = true;
    style.name = "qwen3";
  }
  return MakeChatMl(tokenizer, std::move(style));
}

bool IsTrimmed(absl::string_view term) { return absl::StrContains(term, "strip()") || absl::StrContains(term, "trim"); }

// Literals around `content` and `eos_token` in the expression that prints an answer.
bool ReadAnswer(const JinjaText& jinja, InstructionStyle* style) {
  for (const std::vector<std::string>& terms : jinja.PrintedWith("eos_token")) {
    std::string* literal = &style->before_answer;
    bool has_content = false;
    bool is_known = true;
    std::string before;
    InstructionStyle found;
    literal = &found.before_answer;
    for (const std::string& term : terms) {
      if (term == "eos_token") {
        literal = &found.after_eos;
      } else if (ParseJinjaLiteral(term, &before)) {
        *literal += before;
      } else if (absl::StrContains(term, "content") && !has_content) {
        has_content = true;
        found.trim_answer = IsTrimmed(term);
        literal = &found.before_eos;
      } else {
        is_known = false;
      }
    }
    if (!has_content || !is_known) continue;
    style->before_answer = found.before_answer;
    style->before_eos = found.before_eos;
    style->after_eos = found.after_eos;
    style->trim_answer = found.trim_answer;
    return true;
  }
  return false;
}

std::unique_ptr<ChatTemplate> ReadInstructions(const Tokenizer& tokenizer, const JinjaText& jinja) {
  const std::vector<std::string> opens = jinja.LiteralsWith("[INST]");
  const std::vector<std::string> closes = jinja.LiteralsWith("[/INST]");
  InstructionStyle style;
  if (opens.size() != 1 || closes.size() != 1 || !ReadAnswer(jinja, &style)) return nullptr;
  style.open = opens[0];
  style.close = closes[0];
  style.bos_each_question = jinja.Contains(Quoted(absl::StrCat("bos_token + '", style.open)));
  style.bos = jinja.Contains("bos_token") && !style.bos_each_question;
  for (const std::vector<std::string>& terms : jinja.PrintedWith("[INST]")) {
    for (const std::string& term : terms) style.trim_question = style.trim_question || IsTrimmed(term);
  }
  using System = InstructionStyle::System;
  style.name = "mistral";
  if (jinja.Contains("<<SYS>>\n")) {
    style.name = "llama-2";
    style.system = System::kLlama2;
  } else if (jinja.Contains("loop.first and system_message")) {
    style.system = System::kFirstQuestion;
  } else if (jinja.Contains("loop.last and system_message")) {
    style.system = System::kLastQuestion;
  } else if (jinja.Contains("system_message") || jinja.Contains("[SYSTEM_PROMPT]")) {
    return nullptr;
  }
  return MakeInstructions(tokenizer, std::move(style));
}

}  // namespace

absl::StatusOr<std::unique_ptr<ChatTemplate>> ChatTemplate::Recognize(const Tokenizer& tokenizer) {
  const std::string& source = tokenizer.chat_template();
  if (source.empty()) {
    return absl::UnimplementedError(
        "the model has no chat template (it may be a base model); send `text` or `token_ids` prompts instead of "
        "messages");
  }
  const JinjaText jinja(source);
  std::unique_ptr<ChatTemplate> result;
  if (jinja.Contains("<|start_header_id|>") && jinja.Contains("<|eot_id|>")) {
    result = ReadLlama3(tokenizer, jinja);
  } else if (jinja.Contains("<|im_start|>") && jinja.Contains("<|im_end|>")) {
    result = ReadChatMl(tokenizer, jinja);
  } else if (jinja.Contains("[INST]") && jinja.Contains("[/INST]")) {
    result = ReadInstructions(tokenizer, jinja);
  }
  if (result != nullptr) return result;
  std::string beginning = ReplaceInvalidUtf8(absl::string_view(source).substr(0, kShownTemplateBytes));
  absl::StrReplaceAll({{"\n", " "}}, &beginning);
  return absl::UnimplementedError(absl::StrCat(
      "the model's chat template is of no known family (ChatML, SmolLM2, Qwen2, Qwen3, Llama-2, Llama-3, Mistral); it "
      "begins '",
      beginning, "'; send `text` or `token_ids` prompts instead of messages"));
}

}  // namespace flexquant
