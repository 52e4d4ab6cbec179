#include "client/gateway/answer_json.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/gateway/json_text.h"
#include "common/tokenizer/tokenizer.h"

namespace flexquant::gateway {
namespace {

void AppendComma(std::string& list) {
  if (!list.empty()) {
    list.push_back(',');
  }
}

// A token's bytes as text; a part of a code point as OpenAI shows it.
std::string TokenText(const std::string& piece) {
  if (FindInvalidUtf8(piece) < 0) {
    return piece;
  }
  std::string text = "bytes:";
  for (const char c : piece) {
    absl::StrAppend(&text, "\\x", absl::Hex(static_cast<unsigned char>(c), absl::kZeroPad2));
  }
  return text;
}

void AppendTokenLogprob(std::string& out, const std::string& piece, double logprob) {
  out.append(R"({"token":)");
  AppendJsonString(out, TokenText(piece));
  out.append(R"(,"logprob":)");
  AppendJsonNumber(out, logprob);
  out.append(R"(,"bytes":[)");
  for (size_t i = 0; i < piece.size(); ++i) {
    absl::StrAppend(&out, i > 0 ? "," : "", static_cast<int>(static_cast<unsigned char>(piece[i])));
  }
  out.push_back(']');
}

void AppendDetailsOf(std::string& out, const v1::TokenInfo& token) {
  const auto number = [&out](const char* name, double value) {
    absl::StrAppend(&out, ",\"", name, "\":");
    AppendJsonNumber(out, value);
  };
  absl::StrAppend(&out, R"({"id":)", token.id(), R"(,"text":)");
  AppendJsonString(out, token.text());
  number("bits", token.bits());
  number("entropy", token.entropy_nats());
  number("top1_probability", token.top1_probability());
  number("margin", token.margin());
  number("logprob", token.logprob());
  if (token.has_level()) {
    absl::StrAppend(&out, ",\"level\":", token.level());
  }
  if (token.has_audit_kl()) {
    number("audit_kl", token.audit_kl());
  }
  out.push_back('}');
}

uint64_t CodePoints(const std::string& text) {
  return static_cast<uint64_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0U) != 0x80U; }));
}

// One report of several answers. What is a mean is weighted by tokens; the interval of audits is not carried over.
v1::PrecisionReport Together(const std::vector<const v1::GenerationFinished*>& choices) {
  v1::PrecisionReport sum = choices.front()->precision();
  if (choices.size() == 1) {
    return sum;
  }
  std::map<uint32_t, uint64_t> histogram;
  double tokens = 0;
  double bits = 0;
  double predicted = 0;
  double audit_kl = 0;
  uint32_t audits = 0;
  sum.set_weight_bytes_read(0);
  sum.set_weight_bytes_top(0);
  sum.set_plan_changes(0);
  bool within = true;
  for (const v1::GenerationFinished* choice : choices) {
    const v1::PrecisionReport& report = choice->precision();
    const double weight = choice->usage().generated_tokens();
    for (const v1::PrecisionCount& count : report.histogram()) {
      histogram[count.bits()] += count.tokens();
    }
    tokens += weight;
    bits += weight * report.mean_bits();
    predicted += weight * report.predicted_mean_kl();
    within = within && report.within_budget();
    audits += report.audit().tokens();
    audit_kl += report.audit().tokens() * report.audit().mean_kl();
    sum.set_weight_bytes_read(sum.weight_bytes_read() + report.weight_bytes_read());
    sum.set_weight_bytes_top(sum.weight_bytes_top() + report.weight_bytes_top());
    sum.set_plan_changes(sum.plan_changes() + report.plan_changes());
  }
  sum.clear_histogram();
  for (const auto& [width, count] : histogram) {
    v1::PrecisionCount* bar = sum.add_histogram();
    bar->set_bits(width);
    bar->set_tokens(count);
  }
  sum.set_mean_bits(tokens > 0 ? bits / tokens : 0);
  if (sum.has_predicted_mean_kl()) {
    sum.set_predicted_mean_kl(tokens > 0 ? predicted / tokens : 0);
  }
  if (sum.has_within_budget()) {
    sum.set_within_budget(within);
  }
  sum.clear_audit();
  if (audits > 0) {
    sum.mutable_audit()->set_tokens(audits);
    sum.mutable_audit()->set_mean_kl(audit_kl / audits);
  }
  return sum;
}

}  // namespace

ChoiceJson::ChoiceJson(const TranslatedRequest& request, size_t index)
    : chat_(request.endpoint == Endpoint::kChatCompletions),
      logprobs_wanted_(request.logprobs),
      details_wanted_(request.token_details),
      index_(index),
      chunk_due_(chat_) {}

void ChoiceJson::AddLogprobs(const v1::TokenInfo& token) {
  for (std::string& list : logprobs_) {
    AppendComma(list);
  }
  if (chat_) {
    AppendTokenLogprob(logprobs_[0], token.piece(), token.logprob());
    logprobs_[0].append(R"(,"top_logprobs":[)");
    for (int i = 0; i < token.top_logprobs_size(); ++i) {
      logprobs_[0].append(i > 0 ? "," : "");
      AppendTokenLogprob(logprobs_[0], token.top_logprobs(i).piece(), token.top_logprobs(i).logprob());
      logprobs_[0].push_back('}');
    }
    logprobs_[0].append("]}");
    return;
  }
  AppendJsonString(logprobs_[0], TokenText(token.piece()));
  AppendJsonNumber(logprobs_[1], token.logprob());
  // The token itself is listed too; tokens with the same text cannot be told apart in this form.
  std::map<std::string, double> top;
  for (const v1::TokenLogprob& candidate : token.top_logprobs()) {
    top.emplace(TokenText(candidate.piece()), candidate.logprob());
  }
  top.emplace(TokenText(token.piece()), token.logprob());
  logprobs_[2].push_back('{');
  bool first = true;
  for (const auto& [text, logprob] : top) {
    logprobs_[2].append(first ? "" : ",");
    first = false;
    AppendJsonString(logprobs_[2], text);
    logprobs_[2].push_back(':');
    AppendJsonNumber(logprobs_[2], logprob);
  }
  logprobs_[2].push_back('}');
  absl::StrAppend(&logprobs_[3], text_offset_);
  text_offset_ += CodePoints(token.text());
}

void ChoiceJson::Take(const v1::GenerationDelta& delta) {
  text_.append(delta.text());
  for (const v1::TokenInfo& token : delta.tokens()) {
    if (details_wanted_) {
      AppendComma(tokens_);
      AppendDetailsOf(tokens_, token);
    }
    if (!logprobs_wanted_) {
      continue;
    }
    if (held_.has_value()) {
      AddLogprobs(*held_);
      held_.reset();
    }
    if (token.text().empty()) {
      held_ = token;
    } else {
      AddLogprobs(token);
    }
  }
}

void ChoiceJson::Take(const v1::GenerationFinished& finished) {
  finished_ = finished;
  const bool stop_token = finished.stop_cause() == "eos" || absl::StartsWith(finished.stop_cause(), "token:");
  if (held_.has_value() && !stop_token) {
    AddLogprobs(*held_);
  }
  held_.reset();
}

void ChoiceJson::AppendLogprobs(std::string& out) {
  out.append(R"("logprobs":)");
  if (!logprobs_wanted_ || logprobs_[0].empty()) {
    out.append("null");
  } else if (chat_) {
    absl::StrAppend(&out, R"({"content":[)", logprobs_[0], R"(],"refusal":null})");
  } else {
    absl::StrAppend(&out, R"({"tokens":[)", logprobs_[0], R"(],"token_logprobs":[)", logprobs_[1],
                    R"(],"top_logprobs":[)", logprobs_[2], R"(],"text_offset":[)");
    absl::StrAppend(&out, logprobs_[3], "]}");
  }
  for (std::string& list : logprobs_) {
    list.clear();
  }
}

void ChoiceJson::AppendFinishReason(std::string& out) const {
  out.append(R"(,"finish_reason":)");
  if (!finished_.has_value()) {
    out.append("null");
  } else {
    out.append(finished_->finish_reason() == v1::FINISH_REASON_LENGTH ? R"("length")" : R"("stop")");
  }
}

void ChoiceJson::AppendDetails(std::string& out) {
  if (!details_wanted_ || (tokens_.empty() && !finished_.has_value())) {
    return;
  }
  out.append(R"(,"flexquant":{)");
  if (!tokens_.empty()) {
    absl::StrAppend(&out, R"("tokens":[)", tokens_, "]");
  }
  if (finished_.has_value()) {
    out.append(tokens_.empty() ? "" : ",").append(R"("precision":)");
    AppendPrecision(out, finished_->precision());
  }
  out.push_back('}');
  tokens_.clear();
}

void ChoiceJson::AppendChunk(std::string& out, const AnswerHead& head) {
  const bool first = std::exchange(chunk_due_, false);
  AppendHead(out, head, chat_ ? "chat.completion.chunk" : "text_completion");
  absl::StrAppend(&out, R"("choices":[{"index":)", index_);
  if (chat_) {
    out.append(R"(,"delta":{)");
    if (first) {
      out.append(R"("role":"assistant",)");
    }
    if (first || !finished_.has_value() || !text_.empty()) {
      out.append(R"("content":)");
      AppendJsonString(out, text_);
    }
    out.append("},");
  } else {
    out.append(R"(,"text":)");
    AppendJsonString(out, text_);
    out.push_back(',');
  }
  text_.clear();
  AppendLogprobs(out);
  AppendFinishReason(out);
  out.append("}]");
  AppendDetails(out);
  out.push_back('}');
}

void ChoiceJson::AppendChoice(std::string& out) {
  absl::StrAppend(&out, R"({"index":)", index_, chat_ ? R"(,"message":{"role":"assistant","content":)" : R"(,"text":)");
  AppendJsonString(out, text_);
  out.append(chat_ ? R"(,"refusal":null},)" : ",");
  AppendLogprobs(out);
  AppendFinishReason(out);
  AppendDetails(out);
  out.push_back('}');
}

void AppendHead(std::string& out, const AnswerHead& head, const char* object) {
  out.append(R"({"id":)");
  AppendJsonString(out, head.id);
  absl::StrAppend(&out, R"(,"object":")", object, R"(","created":)", head.created, R"(,"model":)");
  AppendJsonString(out, head.model);
  out.append(R"(,"system_fingerprint":)");
  AppendJsonString(out, head.fingerprint);
  out.push_back(',');
}

const char* ObjectName(const TranslatedRequest& request, bool chunk) {
  if (request.endpoint == Endpoint::kCompletions) {
    return "text_completion";
  }
  return chunk ? "chat.completion.chunk" : "chat.completion";
}

void AppendUsage(std::string& out, const std::vector<const v1::GenerationFinished*>& choices, int choices_per_prompt) {
  uint64_t prompt = 0;
  uint64_t answer = 0;
  for (size_t i = 0; i < choices.size(); ++i) {
    prompt += i % static_cast<size_t>(choices_per_prompt) == 0 ? choices[i]->usage().prompt_tokens() : 0;
    answer += choices[i]->usage().generated_tokens();
  }
  absl::StrAppend(&out, R"("usage":{"prompt_tokens":)", prompt, R"(,"completion_tokens":)", answer,
                  R"(,"total_tokens":)", prompt + answer, R"(,"precision":)");
  AppendPrecision(out, Together(choices));
  out.push_back('}');
}

void AppendPrecision(std::string& out, const v1::PrecisionReport& report) {
  const auto number = [&out](const char* name, double value) {
    absl::StrAppend(&out, ",\"", name, "\":");
    AppendJsonNumber(out, value);
  };
  out.append(R"({"policy":)");
  AppendJsonString(out, report.policy());
  number("mean_bits", report.mean_bits());
  out.append(R"(,"histogram":{)");
  for (int i = 0; i < report.histogram_size(); ++i) {
    absl::StrAppend(&out, i > 0 ? "," : "", "\"", report.histogram(i).bits(), "\":", report.histogram(i).tokens());
  }
  absl::StrAppend(&out, R"(},"weight_bytes_read":)", report.weight_bytes_read(), R"(,"weight_bytes_top":)",
                  report.weight_bytes_top());
  if (report.has_max_mean_kl()) {
    number("max_mean_kl", report.max_mean_kl());
  }
  if (report.has_target_mean_bits()) {
    number("target_mean_bits", report.target_mean_bits());
  }
  if (report.has_predicted_mean_kl()) {
    number("predicted_mean_kl", report.predicted_mean_kl());
  }
  if (report.has_within_budget()) {
    absl::StrAppend(&out, R"(,"within_budget":)", report.within_budget() ? "true" : "false");
  }
  absl::StrAppend(&out, R"(,"plan_changes":)", report.plan_changes(), R"(,"calibrated":)",
                  report.calibration() == v1::CALIBRATION_STATE_CALIBRATED ? "true" : "false");
  if (report.has_audit()) {
    absl::StrAppend(&out, R"(,"audit":{"tokens":)", report.audit().tokens());
    number("mean_kl", report.audit().mean_kl());
    if (report.audit().has_low_kl()) {
      number("low_kl", report.audit().low_kl());
    }
    if (report.audit().has_high_kl()) {
      number("high_kl", report.audit().high_kl());
    }
    out.push_back('}');
  }
  out.push_back('}');
}

}  // namespace flexquant::gateway
