#ifndef FLEXQUANT_TESTS_CONTROLLER_NULL_SINK_H_
#define FLEXQUANT_TESTS_CONTROLLER_NULL_SINK_H_

#include "absl/status/status.h"
#include "controller/generation.h"

namespace flexquant::controller {

// Takes an answer and forgets it.
class NullSink : public GenerationSink {
 public:
  void OnStarted(double /*backend_kl*/) override {}
  void OnDelta(AnswerDelta /*delta*/) override {}
  void OnFinished(AnswerEnd /*end*/) override {}
  void OnFailed(absl::Status /*status*/) override {}
};

}  // namespace flexquant::controller

#endif  // FLEXQUANT_TESTS_CONTROLLER_NULL_SINK_H_
