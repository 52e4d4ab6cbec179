#include "client/gateway/request_translation.h"

#include <array>
#include <cstdint>
#include <limits>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "client/gateway/json_fields.h"
#include "client/gateway/openai_error.h"
#include "client/gateway/precision_translation.h"
#include "common/status_macros.h"
#include "controller/mix_bits.h"
#include "proto/grpc_status.h"

namespace flexquant::gateway {
namespace {

// OpenAI's defaults where the server's differ.
constexpr double kDefaultTemperature = 1;
constexpr uint32_t kDefaultCompletionTokens = 16;
// An answer ends at the context's end anyway.
constexpr uint32_t kUpToTheContext = std::numeric_limits<uint32_t>::max();

constexpr uint32_t kMaxChoicesPerPrompt = 16;
constexpr size_t kMaxChoices = 64;

// Fields that say who asks or how OpenAI is to keep or bill it: nothing here depends on them.
constexpr std::array kIgnored = {"user", "metadata", "safety_identifier", "prompt_cache_key", "service_tier"};
// Fields that would change the answer in ways that are not supported.
constexpr std::array kUnsupportedInChat = {"audio",       "prediction",         "reasoning_effort",
                                           "verbosity",   "web_search_options", "function_call",
                                           "tool_choice", "parallel_tool_calls"};
constexpr std::array kUnsupportedInMessages = {"tool_calls", "function_call", "tool_call_id", "audio", "refusal"};

bool IsEmpty(const Json& value) {
  return ((value.is_array() || value.is_object()) && value.empty()) || (value.is_string() && value == "");
}

void Refuse(JsonFields& fields, const char* name) { fields.Fail(name, "is not supported; leave it out"); }

void RefuseIfGiven(JsonFields& fields, const char* name) {
  if (fields.Find(name) != nullptr) {
    Refuse(fields, name);
  }
}

// An empty list, object or text asks for nothing.
void RefuseUnlessEmpty(JsonFields& fields, const char* name) {
  if (const Json* value = fields.Find(name); value != nullptr && !IsEmpty(*value)) {
    Refuse(fields, name);
  }
}

void RefuseUnless(JsonFields& fields, const char* name, const Json& harmless) {
  if (const Json* value = fields.Find(name); value != nullptr && *value != harmless) {
    fields.Fail(name, absl::StrCat(JsonExcerpt(*value), " is not supported; only ", harmless.dump(), " is"));
  }
}

void TranslateSampling(JsonFields& fields, v1::SamplingParams& sampling) {
  sampling.set_temperature(kDefaultTemperature);
  double number = 0;
  uint32_t count = 0;
  if (fields.Get("temperature", &number)) {
    sampling.set_temperature(number);
  }
  if (fields.Get("top_p", &number)) {
    sampling.set_top_p(number);
  }
  if (fields.Get("presence_penalty", &number)) {
    sampling.set_presence_penalty(number);
  }
  if (fields.Get("frequency_penalty", &number)) {
    sampling.set_frequency_penalty(number);
  }
  // Not OpenAI's, but common among compatible servers.
  if (fields.Get("top_k", &count)) {
    sampling.set_top_k(count);
  }
  if (fields.Get("min_p", &number)) {
    sampling.set_min_p(number);
  }
  if (fields.Get("repetition_penalty", &number)) {
    sampling.set_repetition_penalty(number);
  }
  if (const Json* seed = fields.Find("seed")) {
    if (seed->is_number_integer()) {
      sampling.set_seed(seed->is_number_unsigned() ? seed->get<uint64_t>()
                                                   : static_cast<uint64_t>(seed->get<int64_t>()));
    } else {
      fields.Fail("seed", absl::StrCat(JsonExcerpt(*seed), " is not a whole number"));
    }
  }
}

void TranslateStop(Endpoint endpoint, JsonFields& fields, v1::StopParams& stop) {
  uint32_t tokens = 0;
  stop.set_max_tokens(endpoint == Endpoint::kChatCompletions ? kUpToTheContext : kDefaultCompletionTokens);
  const bool has_max_tokens = fields.Get("max_tokens", &tokens);
  if (has_max_tokens) {
    stop.set_max_tokens(tokens);
  }
  if (endpoint == Endpoint::kChatCompletions && fields.Get("max_completion_tokens", &tokens)) {
    if (has_max_tokens && tokens != stop.max_tokens()) {
      fields.Fail("max_completion_tokens", "differs from max_tokens; give one of them");
    }
    stop.set_max_tokens(tokens);
  }
  bool ignore_eos = false;
  if (fields.Get("ignore_eos", &ignore_eos)) {
    stop.set_ignore_eos(ignore_eos);
  }
  const Json* strings = fields.Find("stop");
  if (strings == nullptr) {
    return;
  }
  const Json list = strings->is_array() ? *strings : Json::array({*strings});
  for (const Json& text : list) {
    if (!text.is_string()) {
      fields.Fail("stop", absl::StrCat(JsonExcerpt(*strings), " is not a string or a list of strings"));
      return;
    }
    stop.add_stop_strings(text.get<std::string>());
  }
}

void TranslateLogprobs(JsonFields& fields, TranslatedRequest& translated, v1::OutputParams& output) {
  uint32_t top = 0;
  if (translated.endpoint == Endpoint::kCompletions) {
    translated.logprobs = fields.Get("logprobs", &top);
  } else {
    fields.Get("logprobs", &translated.logprobs);
    if (fields.Get("top_logprobs", &top) && top > 0 && !translated.logprobs) {
      fields.Fail("top_logprobs", "needs logprobs; set that to true");
    }
  }
  output.set_top_logprobs(top);
}

void TranslateStream(JsonFields& fields, TranslatedRequest& translated) {
  fields.Get("stream", &translated.stream);
  const Json* json = fields.Find("stream_options");
  if (json == nullptr) {
    return;
  }
  if (!translated.stream) {
    fields.Fail("stream_options", "needs stream; set that to true");
    return;
  }
  JsonFields options(*json, "stream_options.");
  options.Get("include_usage", &translated.include_usage);
  RefuseUnless(options, "include_obfuscation", false);
  if (const absl::Status status = options.Finish(); !status.ok()) {
    fields.Fail("stream_options", status.message());
  }
}

// Text of a message: a string, or a list of parts of text.
absl::StatusOr<std::string> MessageText(const Json* content, const std::string& path, bool optional) {
  if (content == nullptr) {
    return optional ? absl::StatusOr<std::string>("") : BadParameter(path, "is missing; give a string");
  }
  if (content->is_string()) {
    return content->get<std::string>();
  }
  if (!content->is_array()) {
    return BadParameter(path, absl::StrCat(JsonExcerpt(*content), " is not a string or a list of text parts"));
  }
  std::string text;
  for (size_t i = 0; i < content->size(); ++i) {
    JsonFields part((*content)[i], absl::StrCat(path, "[", i, "]."));
    std::string type;
    std::string piece;
    part.Get("type", &type);
    if (part.status().ok() && type != "text") {
      part.Fail("type", absl::StrCat("'", Shortened(type, 40), "' is not supported; only text is"));
    }
    if (!part.Get("text", &piece)) {
      part.Fail("text", "is missing; give a string");
    }
    FQ_RETURN_IF_ERROR(part.Finish());
    text += piece;
  }
  return text;
}

absl::Status TranslateMessage(const Json& json, const std::string& path, v1::ChatMessage& message) {
  JsonFields fields(json, absl::StrCat(path, "."));
  std::string role;
  if (!fields.Get("role", &role)) {
    fields.Fail("role", "is missing; give system, user or assistant");
  }
  for (const char* name : kUnsupportedInMessages) {
    RefuseUnlessEmpty(fields, name);
  }
  RefuseUnlessEmpty(fields, "annotations");
  fields.Ignore("name");  // no template shows it
  message.set_role(role == "developer" ? "system" : role);
  const Json* content = fields.Find("content");
  FQ_RETURN_IF_ERROR(fields.Finish());
  FQ_ASSIGN_OR_RETURN(*message.mutable_content(),
                      MessageText(content, absl::StrCat(path, ".content"), role == "assistant"));
  return absl::OkStatus();
}

absl::Status TranslateMessages(JsonFields& fields, v1::ChatPrompt& chat) {
  const Json* messages = fields.Find("messages");
  if (messages == nullptr || !messages->is_array()) {
    return BadParameter("messages", "is missing or not a list; give the conversation's messages");
  }
  for (size_t i = 0; i < messages->size(); ++i) {
    FQ_RETURN_IF_ERROR(TranslateMessage((*messages)[i], absl::StrCat("messages[", i, "]"), *chat.add_messages()));
  }
  return absl::OkStatus();
}

// False if it is not a list of token ids.
bool ReadTokenIds(const Json& list, v1::TokenIds& ids) {
  if (!list.is_array() || list.empty()) {
    return false;
  }
  for (const Json& id : list) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() > std::numeric_limits<uint32_t>::max()) {
      return false;
    }
    ids.add_ids(id.get<uint32_t>());
  }
  return true;
}

// One request for each prompt, each a copy of `common`.
absl::StatusOr<std::vector<v1::GenerateRequest>> TranslatePrompts(JsonFields& fields,
                                                                  const v1::GenerateRequest& common) {
  const Json* prompt = fields.Find("prompt");
  std::vector<const Json*> prompts;
  if (prompt != nullptr && prompt->is_array() && !prompt->empty() && !prompt->front().is_number()) {
    for (const Json& one : *prompt) {
      prompts.push_back(&one);
    }
  } else if (prompt != nullptr) {
    prompts.push_back(prompt);
  }
  if (prompts.size() > kMaxChoices) {
    return BadParameter("prompt", absl::StrCat(prompts.size(), " prompts; at most ", kMaxChoices, " in a request"));
  }
  std::vector<v1::GenerateRequest> requests;
  for (const Json* one : prompts) {
    v1::GenerateRequest& request = requests.emplace_back(common);
    if (one->is_string()) {
      request.set_text(one->get<std::string>());
    } else if (!ReadTokenIds(*one, *request.mutable_token_ids())) {
      return BadParameter("prompt", absl::StrCat(JsonExcerpt(*one), " is not a string or a list of token ids"));
    }
  }
  if (requests.empty()) {
    return BadParameter("prompt", "is missing; give a string, a list of strings, or token ids");
  }
  return requests;
}

absl::Status MakeChoices(JsonFields& fields, const std::vector<v1::GenerateRequest>& prompts,
                         TranslatedRequest& translated) {
  uint32_t n = 1;
  fields.Get("n", &n);
  if (n < 1 || n > kMaxChoicesPerPrompt || n * prompts.size() > kMaxChoices) {
    fields.Fail("n", absl::StrCat(n, " is not from 1 to ", kMaxChoicesPerPrompt, " with at most ", kMaxChoices,
                                  " choices for all prompts"));
    return fields.status();
  }
  translated.choices_per_prompt = static_cast<int>(n);
  for (const v1::GenerateRequest& prompt : prompts) {
    for (uint32_t i = 0; i < n; ++i) {
      v1::GenerateRequest& choice = translated.choices.emplace_back(prompt);
      if (i > 0 && choice.sampling().has_seed()) {
        choice.mutable_sampling()->set_seed(controller::MixBits(choice.sampling().seed() ^ controller::MixBits(i)));
      }
    }
  }
  return absl::OkStatus();
}

void RefuseUnsupported(Endpoint endpoint, JsonFields& fields) {
  for (const char* name : kIgnored) {
    fields.Ignore(name);
  }
  RefuseUnlessEmpty(fields, "logit_bias");
  if (endpoint == Endpoint::kCompletions) {
    RefuseUnless(fields, "best_of", 1);
    RefuseUnless(fields, "echo", false);
    RefuseUnlessEmpty(fields, "suffix");
    return;
  }
  for (const char* name : kUnsupportedInChat) {
    RefuseIfGiven(fields, name);
  }
  RefuseUnlessEmpty(fields, "tools");
  RefuseUnlessEmpty(fields, "functions");
  RefuseUnless(fields, "store", false);
  RefuseUnless(fields, "modalities", Json::array({"text"}));
  RefuseUnless(fields, "response_format", Json::object({{"type", "text"}}));
}

}  // namespace

absl::StatusOr<TranslatedRequest> TranslateRequest(Endpoint endpoint, const std::string& body,
                                                   absl::string_view precision_header) {
  const Json json = Json::parse(body, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) {
    return BadParameter("body", "is not JSON");
  }
  JsonFields fields(json, "");
  FQ_RETURN_IF_ERROR(fields.status());
  TranslatedRequest translated;
  translated.endpoint = endpoint;
  v1::GenerateRequest common;
  fields.Get("model", common.mutable_model());
  RefuseUnsupported(endpoint, fields);
  TranslateSampling(fields, *common.mutable_sampling());
  TranslateStop(endpoint, fields, *common.mutable_stop());
  TranslateLogprobs(fields, translated, *common.mutable_output());
  TranslateStream(fields, translated);
  if (const Json* extension = fields.Find("flexquant")) {
    FQ_RETURN_IF_ERROR(TranslateExtension(*extension, common, translated));
  }
  if (!precision_header.empty()) {
    if (common.has_precision()) {
      return BadParameter("x-flexquant-precision", "the body has flexquant.precision too; give one of them");
    }
    FQ_RETURN_IF_ERROR(TranslatePrecisionHeader(precision_header, *common.mutable_precision()));
  }
  const bool tokens = translated.logprobs || translated.token_details;
  common.mutable_output()->set_token_info(tokens);
  common.mutable_output()->set_token_text(tokens);
  std::vector<v1::GenerateRequest> prompts;
  if (endpoint == Endpoint::kChatCompletions) {
    FQ_RETURN_IF_ERROR(TranslateMessages(fields, *common.mutable_chat()));
    prompts.push_back(std::move(common));
  } else {
    FQ_ASSIGN_OR_RETURN(prompts, TranslatePrompts(fields, common));
  }
  FQ_RETURN_IF_ERROR(MakeChoices(fields, prompts, translated));
  FQ_RETURN_IF_ERROR(fields.Finish());
  return translated;
}

}  // namespace flexquant::gateway
