#ifndef FLEXQUANT_CONTROLLER_METRICS_H_
#define FLEXQUANT_CONTROLLER_METRICS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "controller/executor_figures.h"
#include "controller/generation.h"

namespace flexquant::controller {

// What a scrape reads of the scheduler.
struct SchedulerFigures {
  struct Executor {
    std::string address;
    bool ready = false;
    std::shared_ptr<const ExecutorFigures> figures;
  };
  uint64_t waiting = 0;
  uint64_t waiting_tokens = 0;
  std::vector<Executor> executors;
  std::shared_ptr<ExecutorFigures> departed;  // counts of executors that are gone; null = none
};

// The controller's figures as Prometheus metrics: its own as flexquant_*, and aliases with vLLM's names (vllm:*), so
// that its dashboards and gateways that route by them work. docs/monitoring.md lists all. Thread-safe.
class Metrics {
 public:
  // Counts without showing anything to anybody; for tests and in-process servers.
  static std::unique_ptr<Metrics> Silent();
  // Serves http://`listen`/metrics ("HOST:PORT"; port 0 takes any free one). `read` is called at each scrape.
  // UNAVAILABLE if the port is taken; UNIMPLEMENTED in a build without prometheus-cpp.
  static absl::StatusOr<std::unique_ptr<Metrics>> Serve(const std::string& listen, const std::string& model_name,
                                                        std::function<SchedulerFigures()> read);
  virtual ~Metrics() = default;

  // Port of the endpoint; 0 if there is none.
  virtual int port() const { return 0; }

  // An answer ended well.
  virtual void Finished(const AnswerEnd& /*end*/) {}
  // A request ended in an error, accepted or not.
  virtual void Failed(const absl::Status& /*status*/) {}
  // A token came so long after the one before it.
  virtual void TokenGap(absl::Duration /*gap*/) {}
};

}  // namespace flexquant::controller

#endif  // FLEXQUANT_CONTROLLER_METRICS_H_
