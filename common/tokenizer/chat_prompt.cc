#include "common/tokenizer/chat_prompt.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/tokenizer/utf8.h"

namespace flexquant {
namespace {

constexpr size_t kMaxShownRole = 40;

absl::Status WrongMessage(size_t index, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("messages[", index, "] ", what));
}

}  // namespace

void ChatPrompt::AddId(uint32_t id) {
  if (!text_.empty() && status_.ok()) {
    Tokenizer::EncodeOptions options;
    options.follows_special = !ids_.empty();
    const auto encoded = tokenizer_.Encode(text_, options);
    if (encoded.ok()) {
      ids_.insert(ids_.end(), encoded->begin(), encoded->end());
    } else {
      status_ = encoded.status();
    }
  }
  text_.clear();
  ids_.push_back(id);
}

void ChatPrompt::AddMark(absl::string_view text) {
  const int64_t id = tokenizer_.SpecialId(text);
  if (id < 0) {
    AddText(text);
  } else {
    AddId(static_cast<uint32_t>(id));
  }
}

void ChatPrompt::AddBos() {
  if (tokenizer_.bos_id() >= 0) AddId(static_cast<uint32_t>(tokenizer_.bos_id()));
}

void ChatPrompt::AddEos() {
  if (!tokenizer_.eos_ids().empty()) AddId(tokenizer_.eos_ids().front());
}

void ChatPrompt::AddText(absl::string_view text) { absl::StrAppend(&text_, text); }

absl::StatusOr<std::vector<uint32_t>> ChatPrompt::Finish() {
  AddId(0);  // takes the text before it along
  ids_.pop_back();
  FQ_RETURN_IF_ERROR(status_);
  return std::move(ids_);
}

absl::Status CheckConversation(const std::vector<ChatMessage>& messages) {
  bool has_user = false;
  for (size_t i = 0; i < messages.size(); ++i) {
    const ChatMessage& message = messages[i];
    if (message.role != "system" && message.role != "user" && message.role != "assistant") {
      const std::string shown = ReplaceInvalidUtf8(absl::string_view(message.role).substr(0, kMaxShownRole));
      return WrongMessage(i, absl::StrCat("has the role '", shown, "'; allowed are system, user and assistant"));
    }
    if (message.role == "system" && i != 0) {
      return WrongMessage(i, "is a system message; only the first message may be one");
    }
    if (const int64_t offset = FindInvalidUtf8(message.content); offset >= 0) {
      return WrongMessage(i, absl::StrCat("is not valid UTF-8 at byte ", offset, "; send UTF-8"));
    }
    has_user = has_user || message.role == "user";
  }
  if (has_user) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("none of the ", messages.size(), " messages has the role user; send at least one"));
}

absl::Status CheckAlternates(const std::vector<ChatMessage>& messages) {
  const size_t first = messages[0].role == "system" ? 1 : 0;
  for (size_t i = first; i < messages.size(); ++i) {
    const absl::string_view wanted = (i - first) % 2 == 0 ? "user" : "assistant";
    if (messages[i].role != wanted) {
      return WrongMessage(i, absl::StrCat("has the role ", messages[i].role, "; this model's template wants user and ",
                                          "assistant by turns, so it must be ", wanted));
    }
  }
  return absl::OkStatus();
}

}  // namespace flexquant
