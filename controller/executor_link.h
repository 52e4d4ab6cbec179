#ifndef FLEXQUANT_CONTROLLER_EXECUTOR_LINK_H_
#define FLEXQUANT_CONTROLLER_EXECUTOR_LINK_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "controller/step.h"

namespace flexquant::controller {

// An open stream to an executor, as ExecutorRounds sees it: ExecutorClient, or a simulated one. Nothing here waits. All
// calls come from one thread.
class ExecutorLink {
 public:
  virtual ~ExecutorLink() = default;

  virtual const std::string& address() const = 0;
  // OK while the stream is open.
  virtual absl::Status StreamStatus() const = 0;
  // Whether the executor has said that it is shutting down.
  virtual bool draining() const = 0;
  // Sends a step; returns its id (1, 2, ... on each stream).
  virtual uint64_t SendStep(const std::vector<SequenceStep>& sequences) = 0;
  virtual void SendRelease(const std::vector<uint64_t>& sequence_ids) = 0;
  // Results arrived since the last call, in order.
  virtual std::vector<StepResult> TakeResults() = 0;
};

}  // namespace flexquant::controller

#endif  // FLEXQUANT_CONTROLLER_EXECUTOR_LINK_H_
