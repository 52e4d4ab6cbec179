#ifndef FLEXQUANT_CLIENT_GATEWAY_ANSWER_JSON_H_
#define FLEXQUANT_CLIENT_GATEWAY_ANSWER_JSON_H_

// Answers as OpenAI's API writes them.

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "client/gateway/request_translation.h"
#include "flexquant/v1/inference.pb.h"

namespace flexquant::gateway {

// What all chunks of an answer say.
struct AnswerHead {
  std::string id;
  int64_t created = 0;  // s since 1970
  std::string model;
  std::string fingerprint;
};

// One choice on its way: takes events and writes what they add up to since the last writing, so a stream writes after
// each event and a whole answer once. Not thread-safe.
class ChoiceJson {
 public:
  ChoiceJson(const TranslatedRequest& request, size_t index);

  void Take(const v1::GenerationDelta& delta);
  void Take(const v1::GenerationFinished& finished);
  // Whether a chunk would say anything: a chat's first one says whose the message is.
  bool has_news() const {
    return chunk_due_ || finished_.has_value() || !text_.empty() || !tokens_.empty() || !logprobs_[0].empty();
  }

  // A chunk of a stream, without "data: ".
  void AppendChunk(std::string& out, const AnswerHead& head);
  // The element of "choices" of a whole answer.
  void AppendChoice(std::string& out);

  const std::optional<v1::GenerationFinished>& finished() const { return finished_; }

 private:
  void AddLogprobs(const v1::TokenInfo& token);
  void AppendLogprobs(std::string& out);
  void AppendFinishReason(std::string& out) const;
  // "flexquant":{...} with what precedes it, if there is anything to say.
  void AppendDetails(std::string& out);

  const bool chat_;
  const bool logprobs_wanted_;
  const bool details_wanted_;
  const size_t index_;
  bool chunk_due_;  // a chat's first
  std::string text_;
  std::string tokens_;  // elements of flexquant.tokens
  // Chat: elements of logprobs.content. Completions: of tokens, token_logprobs, top_logprobs, text_offset.
  std::array<std::string, 4> logprobs_;
  // May be the stop token, whose log-probability is not listed: known at the answer's end.
  std::optional<v1::TokenInfo> held_;
  uint64_t text_offset_ = 0;  // code points of the tokens so far
  std::optional<v1::GenerationFinished> finished_;
};

// {"id":...,"system_fingerprint":..., up to the next field; `object` such as "chat.completion".
void AppendHead(std::string& out, const AnswerHead& head, const char* object);
const char* ObjectName(const TranslatedRequest& request, bool chunk);

// Prompt tokens of each prompt once, answer tokens of all choices, and the precision that was used.
void AppendUsage(std::string& out, const std::vector<const v1::GenerationFinished*>& choices, int choices_per_prompt);

void AppendPrecision(std::string& out, const v1::PrecisionReport& report);

}  // namespace flexquant::gateway

#endif  // FLEXQUANT_CLIENT_GATEWAY_ANSWER_JSON_H_
