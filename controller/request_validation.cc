#include "controller/request_validation.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/status_macros.h"
#include "controller/policy/kl_correction.h"
#include "controller/policy/policy_factory.h"
#include "proto/grpc_status.h"

namespace flexquant::controller {
namespace {

constexpr uint32_t kDefaultMaxTokens = 256;
constexpr int kMaxStopStrings = 16;
constexpr size_t kMaxStopStringBytes = 256;
constexpr int kMaxStopTokenIds = 64;
constexpr uint32_t kMaxTopLogprobs = 20;
constexpr size_t kMaxRequestIdBytes = 128;
constexpr int kMaxChatMessages = 4096;
// More than any text of ours, and bounds what is sent back.
constexpr int64_t kMaxDetokenizedTokens = 262'144;
// Far above what a sensible setting of an executor costs a token, in nats.
constexpr double kMaxBackendKl = 100;

uint64_t RandomBits() {
  std::random_device device;
  return (uint64_t{device()} << 32U) | device();
}

absl::Status CheckModelName(const std::string& name, const ModelPackage& model) {
  if (name.empty() || name == model.name) {
    return absl::OkStatus();
  }
  return WithErrorInfo(absl::NotFoundError(absl::StrCat("model: '", absl::CHexEscape(name.substr(0, 128)),
                                                        "' is not served here; this server has '", model.name, "'")),
                       "MODEL_NOT_FOUND");
}

absl::Status CheckUtf8(absl::string_view field, absl::string_view text) {
  if (const int64_t offset = FindInvalidUtf8(text); offset >= 0) {
    return FieldViolation(field, absl::StrCat("invalid UTF-8 at byte ", offset, "; send text as UTF-8"));
  }
  return absl::OkStatus();
}

// A range of doubles; NaN lies in none.
struct Range {
  double low;
  bool low_included;
  double high;

  bool Contains(double value) const { return (low_included ? value >= low : value > low) && value <= high; }
  std::string ToString() const { return absl::StrCat(low_included ? "[" : "(", low, ", ", high, "]"); }
};

absl::Status CheckRange(absl::string_view field, double value, const Range& range, absl::string_view remedy) {
  if (range.Contains(value)) {
    return absl::OkStatus();
  }
  return FieldViolation(absl::StrCat("sampling.", field),
                        absl::StrCat(value, " is outside ", range.ToString(), "; ", remedy));
}

absl::Status FillSampling(const v1::SamplingParams& request, SamplingValues& values, v1::SamplingParams& effective) {
  values.temperature = request.temperature();
  values.top_k = request.top_k();
  values.top_p = request.has_top_p() ? request.top_p() : 1;
  values.min_p = request.min_p();
  values.repetition_penalty = request.has_repetition_penalty() ? request.repetition_penalty() : 1;
  values.presence_penalty = request.presence_penalty();
  values.frequency_penalty = request.frequency_penalty();
  values.seed = request.has_seed() ? request.seed() : RandomBits();
  FQ_RETURN_IF_ERROR(CheckRange("temperature", values.temperature, {0, true, 100}, "leave it unset or 0 for greedy"));
  FQ_RETURN_IF_ERROR(CheckRange("top_p", values.top_p, {0, false, 1}, "leave it unset or 1 to turn it off"));
  FQ_RETURN_IF_ERROR(CheckRange("min_p", values.min_p, {0, true, 1}, "leave it unset or 0 to turn it off"));
  FQ_RETURN_IF_ERROR(CheckRange("repetition_penalty", values.repetition_penalty, {0, false, 10},
                                "leave it unset or 1 to turn it off"));
  FQ_RETURN_IF_ERROR(
      CheckRange("presence_penalty", values.presence_penalty, {-10, true, 10}, "leave it unset or 0 to turn it off"));
  FQ_RETURN_IF_ERROR(
      CheckRange("frequency_penalty", values.frequency_penalty, {-10, true, 10}, "leave it unset or 0 to turn it off"));
  effective.set_temperature(values.temperature);
  effective.set_top_k(values.top_k);
  effective.set_top_p(values.top_p);
  effective.set_min_p(values.min_p);
  effective.set_repetition_penalty(values.repetition_penalty);
  effective.set_presence_penalty(values.presence_penalty);
  effective.set_frequency_penalty(values.frequency_penalty);
  effective.set_seed(values.seed);
  return absl::OkStatus();
}

// Before a list is looked at.
absl::Status CheckCount(absl::string_view field, absl::string_view what, int64_t count, int64_t most) {
  if (count <= most) {
    return absl::OkStatus();
  }
  return FieldViolation(field, absl::StrCat(count, " ", what, "; at most ", most, " are allowed; send fewer"));
}

absl::Status CheckTokenIds(absl::string_view field, const google::protobuf::RepeatedField<uint32_t>& ids,
                           uint32_t vocab_size) {
  for (int i = 0; i < ids.size(); ++i) {
    if (ids[i] >= vocab_size) {
      return FieldViolation(absl::StrCat(field, "[", i, "]"),
                            absl::StrCat(ids[i], " is no token of this model; ids are below ", vocab_size));
    }
  }
  return absl::OkStatus();
}

absl::Status FillStop(const v1::StopParams& request, const ModelPackage& model, GenerationSpec& spec) {
  spec.max_tokens = request.has_max_tokens() ? request.max_tokens() : kDefaultMaxTokens;
  if (spec.max_tokens == 0) {
    return FieldViolation("stop.max_tokens", "0 is below 1; ask for at least one token, or leave it unset for 256");
  }
  if (request.stop_strings_size() > kMaxStopStrings) {
    return FieldViolation("stop.stop_strings", absl::StrCat(request.stop_strings_size(), " strings; at most ",
                                                            kMaxStopStrings, " are allowed"));
  }
  for (int i = 0; i < request.stop_strings_size(); ++i) {
    const std::string& text = request.stop_strings(i);
    const std::string field = absl::StrCat("stop.stop_strings[", i, "]");
    if (text.empty() || text.size() > kMaxStopStringBytes) {
      return FieldViolation(field, absl::StrCat(text.size(), " bytes; a stop string has 1 to ", kMaxStopStringBytes,
                                                "; leave it out or shorten it"));
    }
    FQ_RETURN_IF_ERROR(CheckUtf8(field, text));
    spec.stop_strings.push_back(text);
  }
  if (request.stop_token_ids_size() > kMaxStopTokenIds) {
    return FieldViolation("stop.stop_token_ids", absl::StrCat(request.stop_token_ids_size(), " ids; at most ",
                                                              kMaxStopTokenIds, " are allowed"));
  }
  FQ_RETURN_IF_ERROR(CheckTokenIds("stop.stop_token_ids", request.stop_token_ids(), model.tokenizer->vocab_size()));
  spec.stop_token_ids.assign(request.stop_token_ids().begin(), request.stop_token_ids().end());
  if (!request.ignore_eos()) {
    spec.eos_token_ids = model.config.eos_token_ids;
    const auto& more = model.tokenizer->eos_ids();
    spec.eos_token_ids.insert(spec.eos_token_ids.end(), more.begin(), more.end());
  }
  return absl::OkStatus();
}

// Keeps a text that is hopelessly too long away from the tokenizer, whose time grows with it.
absl::Status CheckTextSize(absl::string_view field, size_t bytes, const ModelPackage& model) {
  const size_t least_tokens = bytes / model.max_token_bytes;
  if (least_tokens <= static_cast<size_t>(model.config.max_context)) {
    return absl::OkStatus();
  }
  return FieldViolation(field,
                        absl::StrCat(bytes, " bytes are at least ", least_tokens, " tokens; the model's context is ",
                                     model.config.max_context, " tokens; shorten the prompt"));
}

absl::StatusOr<std::vector<uint32_t>> EncodeText(const std::string& text, const Tokenizer::EncodeOptions& options,
                                                 const ModelPackage& model) {
  FQ_RETURN_IF_ERROR(CheckTextSize("text", text.size(), model));
  FQ_RETURN_IF_ERROR(CheckUtf8("text", text));
  return model.tokenizer->Encode(text, options);
}

absl::StatusOr<std::vector<uint32_t>> EncodeChat(const v1::ChatPrompt& chat, const ModelPackage& model) {
  if (chat.messages().empty()) {
    return FieldViolation("chat.messages", "empty; send at least one message with role \"user\"");
  }
  FQ_RETURN_IF_ERROR(CheckCount("chat.messages", "messages", chat.messages_size(), kMaxChatMessages));
  std::vector<ChatMessage> messages;
  size_t bytes = 0;
  for (int i = 0; i < chat.messages_size(); ++i) {
    const v1::ChatMessage& message = chat.messages(i);
    const std::string field = absl::StrCat("chat.messages[", i, "]");
    if (message.role() != "system" && message.role() != "user" && message.role() != "assistant") {
      return FieldViolation(absl::StrCat(field, ".role"),
                            absl::StrCat("'", absl::CHexEscape(message.role().substr(0, 64)),
                                         "' is not a role; use system, user or assistant"));
    }
    FQ_RETURN_IF_ERROR(CheckUtf8(absl::StrCat(field, ".content"), message.content()));
    bytes += message.content().size();
    messages.push_back({message.role(), message.content()});
  }
  FQ_RETURN_IF_ERROR(CheckTextSize("chat.messages", bytes, model));
  if (model.chat_template == nullptr) {
    return WithErrorInfo(model.chat_template_status, "NO_CHAT_TEMPLATE");
  }
  absl::StatusOr<std::vector<uint32_t>> ids = model.chat_template->Render(messages);
  if (absl::IsInvalidArgument(ids.status())) {
    return FieldViolation("chat.messages", ids.status().message());
  }
  return ids;
}

absl::StatusOr<std::vector<uint32_t>> EncodePrompt(const v1::GenerateRequest& request, const ModelPackage& model) {
  switch (request.prompt_case()) {
    case v1::GenerateRequest::kText: {
      FQ_ASSIGN_OR_RETURN(std::vector<uint32_t> ids, EncodeText(request.text(), {.add_special = true}, model));
      if (ids.empty()) {
        return FieldViolation("text",
                              "empty, and this model has no begin-of-sequence token; send at least one character");
      }
      return ids;
    }
    case v1::GenerateRequest::kTokenIds: {
      const auto& ids = request.token_ids().ids();
      if (ids.empty()) {
        return FieldViolation("token_ids.ids", "empty; send at least one token");
      }
      FQ_RETURN_IF_ERROR(CheckCount("token_ids.ids", "tokens", ids.size(), model.config.max_context));
      FQ_RETURN_IF_ERROR(CheckTokenIds("token_ids.ids", ids, model.tokenizer->vocab_size()));
      return std::vector<uint32_t>(ids.begin(), ids.end());
    }
    case v1::GenerateRequest::kChat:
      return EncodeChat(request.chat(), model);
    case v1::GenerateRequest::PROMPT_NOT_SET:
      break;
  }
  return FieldViolation("prompt", "no prompt; set one of text, token_ids and chat");
}

// Checks the prompt's length and shortens max_tokens to what is left.
absl::Status FitContext(uint64_t kv_tokens, const ModelPackage& model, GenerationSpec& spec) {
  const auto context = static_cast<uint64_t>(model.config.max_context);
  const bool cache_is_smaller = kv_tokens > 0 && kv_tokens < context;
  const uint64_t limit = cache_is_smaller ? kv_tokens : context;
  if (spec.prompt.size() >= limit) {
    return FieldViolation(
        "prompt", absl::StrCat("the prompt has ", spec.prompt.size(), " tokens; at most ", limit - 1, " fit (",
                               cache_is_smaller ? "the executors' KV cache holds " : "the model's context is ", limit,
                               " tokens, one is left for the answer); shorten the prompt",
                               cache_is_smaller ? " or start the executor with a larger KV cache" : ""));
  }
  if (spec.max_tokens > limit - spec.prompt.size()) {
    spec.max_tokens = static_cast<uint32_t>(limit - spec.prompt.size());
    spec.limited_by_context = true;
  }
  return absl::OkStatus();
}

absl::Status CheckRequestId(const std::string& request_id) {
  if (request_id.size() > kMaxRequestIdBytes) {
    return FieldViolation("request_id", absl::StrCat(request_id.size(), " bytes; at most ", kMaxRequestIdBytes,
                                                     "; shorten it or leave it empty"));
  }
  if (!std::all_of(request_id.begin(), request_id.end(), [](char c) { return c >= ' ' && c <= '~'; })) {
    return FieldViolation("request_id",
                          absl::StrCat("'", absl::CHexEscape(request_id),
                                       "' is not printable ASCII; use other characters or leave it empty"));
  }
  return absl::OkStatus();
}

absl::Status FillRequestId(const std::string& request_id, GenerationSpec& spec) {
  if (request_id.empty()) {
    spec.request_id = absl::StrFormat("%016x%016x", RandomBits(), RandomBits());
    return absl::OkStatus();
  }
  spec.request_id = request_id;
  return CheckRequestId(request_id);
}

absl::Status FillOutput(const v1::OutputParams& output, ValidatedRequest& validated) {
  validated.token_info = output.token_info();
  if (output.top_logprobs() > kMaxTopLogprobs) {
    return FieldViolation("output.top_logprobs",
                          absl::StrCat(output.top_logprobs(), " is outside [0, ", kMaxTopLogprobs, "]"));
  }
  if (output.top_logprobs() > 0 && !output.token_info()) {
    return FieldViolation("output.top_logprobs", "needs output.token_info; set it, or leave top_logprobs unset");
  }
  validated.token_text = output.token_text();
  if (output.token_text() && !output.token_info()) {
    return FieldViolation("output.token_text", "needs output.token_info; set it, or leave token_text unset");
  }
  validated.spec->top_logprobs = output.top_logprobs();
  return absl::OkStatus();
}

absl::Status FillBatchMode(const v1::GenerateRequest& request, ValidatedRequest& validated) {
  switch (request.batch_mode()) {
    case v1::BATCH_MODE_UNSPECIFIED:
    case v1::BATCH_MODE_SHARED:
      validated.effective.set_batch_mode(v1::BATCH_MODE_SHARED);
      return absl::OkStatus();
    case v1::BATCH_MODE_ISOLATED:
      validated.effective.set_batch_mode(v1::BATCH_MODE_ISOLATED);
      validated.spec->isolated = true;
      return absl::OkStatus();
    default:
      return FieldViolation("batch_mode", absl::StrCat(static_cast<int>(request.batch_mode()),
                                                       " is not a batch mode; use SHARED or ISOLATED"));
  }
}

absl::Status FillResume(const v1::GenerateRequest& request, const ModelPackage& model, GenerationSpec& spec) {
  if (!request.has_resume()) {
    return absl::OkStatus();
  }
  const v1::ResumeState& resume = request.resume();
  if (!request.sampling().has_seed()) {
    return FieldViolation("sampling.seed", "unset; an answer is resumed with the seed that `started` echoed");
  }
  // All of them may be there: a stream can be lost between its last token and `finished`.
  if (static_cast<uint64_t>(resume.tokens_size()) > spec.max_tokens) {
    return FieldViolation("resume.tokens", absl::StrCat(resume.tokens_size(), " tokens are more than the ",
                                                        spec.max_tokens, " of stop.max_tokens"));
  }
  for (int i = 0; i < resume.tokens_size(); ++i) {
    const v1::ResumedToken& token = resume.tokens(i);
    if (token.id() >= model.tokenizer->vocab_size()) {
      return FieldViolation(absl::StrCat("resume.tokens[", i, "].id"),
                            absl::StrCat(token.id(), " is outside [0, ", model.tokenizer->vocab_size() - 1, "]"));
    }
    if (!std::isfinite(token.entropy_nats()) || !std::isfinite(token.top1_probability()) ||
        !std::isfinite(token.margin())) {
      return FieldViolation(absl::StrCat("resume.tokens[", i, "]"),
                            "its signals are not finite; send what TokenInfo had");
    }
    spec.resumed.push_back({token.id(), {token.entropy_nats(), token.top1_probability(), token.margin()}});
  }
  if (resume.has_kl_factor()) {
    if (!(resume.kl_factor() >= 1 && resume.kl_factor() <= KlCorrection::kMax)) {  // NaN too
      return FieldViolation("resume.kl_factor", absl::StrCat(resume.kl_factor(), " is outside [1, ", KlCorrection::kMax,
                                                             "]; send what `started` had"));
    }
    spec.policy->SetKlFactor(resume.kl_factor());
  }
  if (!(resume.backend_kl() >= 0 && resume.backend_kl() <= kMaxBackendKl)) {  // NaN too
    return FieldViolation("resume.backend_kl", absl::StrCat(resume.backend_kl(), " is outside [0, ", kMaxBackendKl,
                                                            "]; send what `started` had"));
  }
  spec.policy->SetBackendKl(resume.backend_kl());
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ValidatedRequest> ValidateGenerate(const v1::GenerateRequest& request, const ModelPackage& model,
                                                  uint64_t kv_tokens) {
  FQ_RETURN_IF_ERROR(CheckModelName(request.model(), model));
  ValidatedRequest validated;
  validated.spec = std::make_unique<GenerationSpec>();
  GenerationSpec& spec = *validated.spec;
  FQ_RETURN_IF_ERROR(FillRequestId(request.request_id(), spec));
  if (request.priority() < -kMaxPriority || request.priority() > kMaxPriority) {
    return FieldViolation("priority",
                          absl::StrCat(request.priority(), " is outside [-", kMaxPriority, ", ", kMaxPriority, "]"));
  }
  spec.priority = request.priority();
  FQ_RETURN_IF_ERROR(FillSampling(request.sampling(), spec.sampling, *validated.effective.mutable_sampling()));
  FQ_RETURN_IF_ERROR(FillStop(request.stop(), model, spec));
  FQ_RETURN_IF_ERROR(FillOutput(request.output(), validated));
  FQ_RETURN_IF_ERROR(FillBatchMode(request, validated));
  FQ_ASSIGN_OR_RETURN(ResolvedPolicy policy, MakePolicy(request.precision(), model.policies, spec.sampling.seed));
  spec.policy = std::move(policy.policy);
  spec.prefill_plan = std::move(policy.prefill_plan);
  spec.calibrated = model.policies.ladder.calibrated;
  if (policy.effective.has_min_bits()) {  // what moves has bounds
    spec.ladder = &model.policies.ladder;
  }
  if (policy.effective.has_max_mean_kl()) {
    spec.target.max_mean_kl = policy.effective.max_mean_kl();
  }
  if (policy.effective.has_target_mean_bits()) {
    spec.target.target_mean_bits = policy.effective.target_mean_bits();
  }
  *validated.effective.mutable_precision() = std::move(policy.effective);
  FQ_ASSIGN_OR_RETURN(spec.prompt, EncodePrompt(request, model));
  FQ_RETURN_IF_ERROR(FitContext(kv_tokens, model, spec));
  FQ_RETURN_IF_ERROR(FillResume(request, model, spec));
  v1::StopParams& stop = *validated.effective.mutable_stop();
  stop = request.stop();
  stop.set_max_tokens(spec.max_tokens);
  return validated;
}

absl::StatusOr<std::vector<uint32_t>> Tokenize(const v1::TokenizeRequest& request, const ModelPackage& model) {
  FQ_RETURN_IF_ERROR(CheckModelName(request.model(), model));
  switch (request.input_case()) {
    case v1::TokenizeRequest::kText:
      return EncodeText(request.text(),
                        {.add_special = request.add_special(), .parse_special = request.parse_special()}, model);
    case v1::TokenizeRequest::kChat:
      if (request.add_special() || request.parse_special()) {
        return FieldViolation(request.add_special() ? "add_special" : "parse_special",
                              "applies to text only; leave it unset for chat");
      }
      return EncodeChat(request.chat(), model);
    case v1::TokenizeRequest::INPUT_NOT_SET:
      break;
  }
  return FieldViolation("input", "no input; set text or chat");
}

absl::Status ValidateAbort(const v1::AbortRequest& request) {
  if (request.request_id().empty()) {
    return FieldViolation("request_id", "empty; name the request to end");
  }
  return CheckRequestId(request.request_id());
}

absl::StatusOr<std::string> Detokenize(const v1::DetokenizeRequest& request, const ModelPackage& model) {
  FQ_RETURN_IF_ERROR(CheckModelName(request.model(), model));
  FQ_RETURN_IF_ERROR(CheckCount("token_ids", "tokens", request.token_ids_size(),
                                std::max<int64_t>(kMaxDetokenizedTokens, model.config.max_context)));
  FQ_RETURN_IF_ERROR(CheckTokenIds("token_ids", request.token_ids(), model.tokenizer->vocab_size()));
  return model.tokenizer->Decode({request.token_ids().begin(), request.token_ids().end()});
}

}  // namespace flexquant::controller
