#include "controller/observed_sink.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "proto/grpc_status.h"
#include "spdlog/spdlog.h"

namespace flexquant::controller {
namespace {

// Values come from clients: they must not look like other fields, or like other lines.
std::string Quoted(absl::string_view value) {
  std::string quoted = "\"";
  for (const char c : value) {
    if (c == '"' || c == '\\') {
      quoted.push_back('\\');
    }
    quoted.push_back(absl::ascii_isprint(static_cast<unsigned char>(c)) ? c : '?');
  }
  quoted.push_back('"');
  return quoted;
}

std::string Beginning(const RequestFacts& facts) {
  std::string line = absl::StrCat("request_id=", Quoted(facts.request_id));
  for (const auto& [name, value] : {std::pair("tenant", &facts.tenant), std::pair("trace_id", &facts.trace_id),
                                    std::pair("peer", &facts.peer), std::pair("policy", &facts.policy)}) {
    if (!value->empty()) {
      absl::StrAppend(&line, " ", name, "=", Quoted(*value));
    }
  }
  return absl::StrCat(line, " prompt_tokens=", facts.prompt_tokens);
}

void LogFailure(const RequestFacts& facts, const absl::Status& status, uint64_t answer_tokens) {
  spdlog::info("{}", absl::StrCat(Beginning(facts), " answer_tokens=", answer_tokens, " status=",
                                  absl::StatusCodeToString(status.code()), " reason=", Quoted(ErrorReason(status))));
}

class ObservedSink final : public GenerationSink {
 public:
  ObservedSink(std::shared_ptr<GenerationSink> sink, RequestFacts facts, Metrics& metrics)
      : sink_(std::move(sink)), facts_(std::move(facts)), metrics_(metrics) {}

  void OnStarted(double backend_kl) override { sink_->OnStarted(backend_kl); }

  void OnDelta(AnswerDelta delta) override {
    const absl::Time now = absl::Now();
    if (tokens_ > 0) {
      metrics_.TokenGap(now - last_token_);
    }
    last_token_ = now;
    tokens_ += delta.tokens.size();
    sink_->OnDelta(std::move(delta));
  }

  void OnFinished(AnswerEnd end) override {
    metrics_.Finished(end);
    spdlog::info("{}", absl::StrCat(Beginning(facts_), " answer_tokens=", end.generated_tokens,
                                    " status=OK stop=", Quoted(end.stop_cause),
                                    absl::StrFormat(" queue_ms=%.1f ttft_ms=%.1f tpot_ms=%.3f bits=%.3f",
                                                    absl::ToDoubleMilliseconds(end.queue_time),
                                                    absl::ToDoubleMilliseconds(end.time_to_first_token),
                                                    absl::ToDoubleMilliseconds(end.time_per_output_token),
                                                    end.precision.mean_bits)));
    sink_->OnFinished(std::move(end));
  }

  void OnFailed(absl::Status status) override {
    metrics_.Failed(status);
    LogFailure(facts_, status, tokens_);
    sink_->OnFailed(std::move(status));
  }

  bool congested() const override { return sink_->congested(); }

 private:
  const std::shared_ptr<GenerationSink> sink_;
  const RequestFacts facts_;
  Metrics& metrics_;
  uint64_t tokens_ = 0;
  absl::Time last_token_;
};

}  // namespace

std::string TraceIdOf(absl::string_view traceparent) {
  const std::vector<absl::string_view> parts = absl::StrSplit(traceparent, '-');
  const auto hex = [](absl::string_view part, size_t size) {
    return part.size() == size && std::all_of(part.begin(), part.end(), [](char c) {
             return absl::ascii_isdigit(static_cast<unsigned char>(c)) || (c >= 'a' && c <= 'f');
           });
  };
  // Later versions may have more parts; all zeros mean none.
  if (parts.size() < 4 || !hex(parts[0], 2) || parts[0] == "ff" || !hex(parts[1], 32) || !hex(parts[2], 16) ||
      parts[1].find_first_not_of('0') == absl::string_view::npos) {
    return "";
  }
  return std::string(parts[1]);
}

void ObserveRefusal(const RequestFacts& facts, const absl::Status& status, Metrics& metrics) {
  metrics.Failed(status);
  LogFailure(facts, status, 0);
}

std::shared_ptr<GenerationSink> Observed(std::shared_ptr<GenerationSink> sink, RequestFacts facts, Metrics& metrics) {
  return std::make_shared<ObservedSink>(std::move(sink), std::move(facts), metrics);
}

}  // namespace flexquant::controller
