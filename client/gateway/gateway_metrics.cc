#include "client/gateway/gateway_metrics.h"

#include <prometheus/text_serializer.h>

namespace flexquant::gateway {
namespace {

using prometheus::Histogram;

Histogram::BucketBoundaries FirstTokenSeconds() {
  return {0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60};
}

Histogram::BucketBoundaries ForwardSeconds() {
  return {1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 0.1, 1};
}

}  // namespace

GatewayMetrics::GatewayMetrics()
    : requests_(prometheus::BuildCounter()
                    .Name("flexquant_gateway_requests_total")
                    .Help("HTTP requests answered, by route and status")
                    .Register(registry_)),
      in_flight_(prometheus::BuildGauge()
                     .Name("flexquant_gateway_completions_in_flight")
                     .Help("Requests for completions that wait or run")
                     .Register(registry_)
                     .Add({})),
      tokens_(prometheus::BuildCounter()
                  .Name("flexquant_gateway_answer_tokens_total")
                  .Help("Tokens of answers handed on")
                  .Register(registry_)
                  .Add({})),
      disconnects_(prometheus::BuildCounter()
                       .Name("flexquant_gateway_disconnects_total")
                       .Help("Requests for completions whose clients went away")
                       .Register(registry_)
                       .Add({})),
      first_token_(prometheus::BuildHistogram()
                       .Name("flexquant_gateway_time_to_first_token_seconds")
                       .Help("From a request to the first byte of its answer's text")
                       .Register(registry_)
                       .Add({}, FirstTokenSeconds())),
      forward_(prometheus::BuildHistogram()
                   .Name("flexquant_gateway_forward_seconds")
                   .Help("From the arrival of an answer's first token until its bytes were sent on")
                   .Register(registry_)
                   .Add({}, ForwardSeconds())) {}

void GatewayMetrics::Answered(const std::string& route, int http_status) {
  requests_.Add({{"route", route}, {"status", std::to_string(http_status)}}).Increment();
}

void GatewayMetrics::CompletionEnded(uint64_t answer_tokens, bool disconnected) {
  in_flight_.Decrement();
  tokens_.Increment(static_cast<double>(answer_tokens));
  if (disconnected) {
    disconnects_.Increment();
  }
}

std::string GatewayMetrics::Text() const { return prometheus::TextSerializer().Serialize(registry_.Collect()); }

}  // namespace flexquant::gateway
