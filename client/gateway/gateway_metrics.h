#ifndef FLEXQUANT_CLIENT_GATEWAY_GATEWAY_METRICS_H_
#define FLEXQUANT_CLIENT_GATEWAY_GATEWAY_METRICS_H_

#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <cstdint>
#include <string>

#include "absl/time/time.h"

namespace flexquant::gateway {

// What /metrics says. Thread-safe.
class GatewayMetrics {
 public:
  GatewayMetrics();

  // `route` is one of a few names, never what a client chose.
  void Answered(const std::string& route, int http_status);
  void CompletionBegan() { in_flight_.Increment(); }
  // `disconnected`: because its client was gone.
  void CompletionEnded(uint64_t answer_tokens, bool disconnected);
  // From a request's arrival to the first byte of its answer's text.
  void FirstToken(absl::Duration time) { first_token_.Observe(absl::ToDoubleSeconds(time)); }
  // From a token's arrival from the server until its bytes were handed to the system.
  void Forwarded(absl::Duration time) { forward_.Observe(absl::ToDoubleSeconds(time)); }

  // Prometheus' text format.
  std::string Text() const;

 private:
  prometheus::Registry registry_;
  prometheus::Family<prometheus::Counter>& requests_;
  prometheus::Gauge& in_flight_;
  prometheus::Counter& tokens_;
  prometheus::Counter& disconnects_;
  prometheus::Histogram& first_token_;
  prometheus::Histogram& forward_;
};

}  // namespace flexquant::gateway

#endif  // FLEXQUANT_CLIENT_GATEWAY_GATEWAY_METRICS_H_
