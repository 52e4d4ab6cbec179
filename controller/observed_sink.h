#ifndef FLEXQUANT_CONTROLLER_OBSERVED_SINK_H_
#define FLEXQUANT_CONTROLLER_OBSERVED_SINK_H_

#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "controller/generation.h"
#include "controller/metrics.h"

namespace flexquant::controller {

// What the access log says of a request beside its outcome. Never the prompt, the answer or a token.
struct RequestFacts {
  std::string request_id;
  std::string tenant;
  std::string trace_id;  // of the call's traceparent; empty = none
  std::string peer;
  std::string policy;
  uint32_t prompt_tokens = 0;
};

// The trace id of a W3C traceparent header ("00-<32 hex digits>-<16 hex digits>-<2>"); empty if it is not one.
std::string TraceIdOf(absl::string_view traceparent);

// One line of the access log and the metrics of a request that was not accepted.
void ObserveRefusal(const RequestFacts& facts, const absl::Status& status, Metrics& metrics);

// Hands an answer on to `sink`, counts it, and writes one line of the access log at its end. `metrics` must outlive it.
std::shared_ptr<GenerationSink> Observed(std::shared_ptr<GenerationSink> sink, RequestFacts facts, Metrics& metrics);

}  // namespace flexquant::controller

#endif  // FLEXQUANT_CONTROLLER_OBSERVED_SINK_H_
