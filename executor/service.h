#ifndef FLEXQUANT_EXECUTOR_SERVICE_H_
#define FLEXQUANT_EXECUTOR_SERVICE_H_

#include <condition_variable>
#include <cstdint>
#include <list>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "executor/engine.h"
#include "flexquant/executor/v1/executor.grpc.pb.h"

namespace flexquant::executor {

struct ServiceOptions {
  std::string model_revision;
  uint32_t max_streams = 16;
};

// ExecutorService on gRPC's callback API. Each stream has a thread of its own that handles its messages in order and
// waits for its own writes, so a peer that does not read stops nobody else; reading goes on while a step runs, up to a
// bound, then flow control holds the peer back. Thread-safe.
class ExecutorService final : public v1::ExecutorService::CallbackService {
 public:
  // `engine` must outlive the service.
  ExecutorService(Engine& engine, ServiceOptions options);
  // All streams must have ended (the server is shut down).
  ~ExecutorService() override;

  grpc::ServerUnaryReactor* Describe(grpc::CallbackServerContext* context, const v1::DescribeRequest* request,
                                     v1::DescribeResponse* response) override;
  grpc::ServerBidiReactor<v1::ExecuteRequest, v1::ExecuteResponse>* Execute(
      grpc::CallbackServerContext* context) override;

  // New streams are refused with UNAVAILABLE; streams without sequences end with it.
  void Drain();
  // True once no stream is left; false if that takes longer than `timeout`.
  bool WaitForStreams(absl::Duration timeout);

 private:
  class Stream;

  // The stream is `controller`'s from now on. FAILED_PRECONDITION while a stream of another one is open.
  absl::Status Claim(Stream* stream, const std::string& controller);
  void OnStreamDone(Stream* stream, std::thread worker);
  // Joins threads of streams that are done.
  void Reap();

  Engine& engine_;
  const ServiceOptions options_;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::list<Stream*> streams_;
  std::map<Stream*, std::string> controllers_;  // of the streams that have been opened
  std::vector<std::thread> done_;
};

}  // namespace flexquant::executor

#endif  // FLEXQUANT_EXECUTOR_SERVICE_H_
