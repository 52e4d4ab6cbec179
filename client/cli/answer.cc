#include "client/cli/answer.h"

#include <map>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "client/cli/interrupt.h"
#include "client/cli/terminal.h"

namespace flexquant::cli {
namespace {

// When tokens came, for answers that the server did not sum up.
struct Arrivals {
  absl::Time start = absl::Now();
  absl::Time first = absl::InfinitePast();
  absl::Time last = absl::InfinitePast();
};

// What the server would have said about a cut answer, as far as the tokens that came tell.
void SumUp(const Arrivals& arrivals, v1::GenerateResponse& response) {
  auto& finished = *response.mutable_finished();
  auto& usage = *finished.mutable_usage();
  const int count = response.tokens_size();
  usage.set_prompt_tokens(response.started().prompt_tokens());
  usage.set_generated_tokens(static_cast<uint32_t>(count));
  if (count > 0) {
    usage.set_time_to_first_token_ns(static_cast<uint64_t>(absl::ToInt64Nanoseconds(arrivals.first - arrivals.start)));
  }
  if (count > 1) {
    usage.set_time_per_output_token_ns(
        static_cast<uint64_t>(absl::ToInt64Nanoseconds((arrivals.last - arrivals.first) / (count - 1))));
  }
  std::map<int, uint64_t> histogram;
  double bits_sum = 0;
  uint32_t changes = 0;
  for (int i = 0; i < count; ++i) {
    const double bits = response.tokens(i).bits();
    bits_sum += bits;
    ++histogram[NearestPrecision(bits)];
    changes += i > 0 && bits != response.tokens(i - 1).bits() ? 1 : 0;
  }
  auto& report = *finished.mutable_precision();
  for (const auto& [bits, tokens] : histogram) {
    auto* bar = report.add_histogram();
    bar->set_bits(static_cast<uint32_t>(bits));
    bar->set_tokens(tokens);
  }
  report.set_mean_bits(count > 0 ? bits_sum / count : 0);
  report.set_plan_changes(changes);
}

}  // namespace

absl::Status RunAnswer(const client::Client& client, v1::GenerateRequest request,
                       absl::FunctionRef<void(const v1::GenerationDelta&)> on_delta, Answer& answer) {
  request.mutable_output()->set_token_info(true);
  request.mutable_output()->set_token_text(true);
  v1::GenerateResponse& response = answer.response;
  Arrivals arrivals;
  client::CancelToken cancel;
  const Interrupt::Action on_interrupt([&cancel] { cancel.Cancel(); });
  const absl::Status status =
      client.GenerateStream(request,
                            [&](const v1::GenerateStreamResponse& event) {
                              if (event.has_started()) {
                                *response.mutable_started() = event.started();
                              } else if (event.has_delta()) {
                                if (event.delta().token_ids_size() > 0) {
                                  arrivals.last = absl::Now();
                                  arrivals.first = response.token_ids_size() == 0 ? arrivals.last : arrivals.first;
                                }
                                response.mutable_text()->append(event.delta().text());
                                response.mutable_token_ids()->MergeFrom(event.delta().token_ids());
                                response.mutable_tokens()->MergeFrom(event.delta().tokens());
                                on_delta(event.delta());
                              } else if (event.has_finished()) {
                                *response.mutable_finished() = event.finished();
                              }
                            },
                            {.timeout = absl::InfiniteDuration(), .cancel = &cancel});
  answer.complete = status.ok();
  if (!answer.complete) {
    SumUp(arrivals, response);
  }
  return status;
}

Json AnswerToJson(const Answer& answer, bool token_info) {
  const v1::GenerateResponse& response = answer.response;
  const v1::GenerationStarted& started = response.started();
  const v1::GenerationFinished& finished = response.finished();
  Json json;
  json["complete"] = answer.complete;
  json["request_id"] = started.request_id();
  json["model"] = started.model();
  json["model_revision"] = started.model_revision();
  json["text"] = response.text();
  json["token_ids"] = Json(std::vector<uint32_t>(response.token_ids().begin(), response.token_ids().end()));
  if (token_info) {
    Json& tokens = json["tokens"] = Json::array();
    for (const v1::TokenInfo& token : response.tokens()) {
      tokens.push_back(MessageToJson(token));
    }
  }
  if (answer.complete) {
    json["finish_reason"] = MessageToJson(finished)["finish_reason"];
    json["stop_cause"] = finished.stop_cause();
  }
  json["effective"] = MessageToJson(started.effective());
  json["precision"] = MessageToJson(finished.precision());
  json["usage"] = MessageToJson(finished.usage());
  return json;
}

}  // namespace flexquant::cli
