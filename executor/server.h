#ifndef FLEXQUANT_EXECUTOR_SERVER_H_
#define FLEXQUANT_EXECUTOR_SERVER_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "grpcpp/channel.h"

namespace flexquant::executor {

struct ExecutorOptions {
  std::string model_dir;
  // "HOST:PORT" (port 0 = any free one); empty = no port, in-process only.
  std::string listen;
  int num_threads = 0;  // 0 = physical cores this process may use
  std::string isa;      // empty = best; "portable", "avx2", "avx512vnni"
  uint32_t kv_block_tokens = 16;
  uint64_t kv_cache_bytes = 0;  // 0 = enough for 4 sequences of the model's context, at most a quarter of free memory
  uint32_t max_sequences = 64;  // a step
  uint32_t max_step_tokens = 512;
  uint32_t max_streams = 16;
  bool verify_checksum = false;
};

// An executor: the store, the engine and the gRPC service. Thread-safe.
class ExecutorServer {
 public:
  // Loads the model and starts serving. Errors of ModelStore::Open; INVALID_ARGUMENT for bad options;
  // RESOURCE_EXHAUSTED if the KV cache does not fit (says how much is missing); UNAVAILABLE if the port is taken (names
  // it).
  static absl::StatusOr<std::unique_ptr<ExecutorServer>> Create(const ExecutorOptions& options);
  virtual ~ExecutorServer() = default;

  // Port listened on; 0 if none.
  virtual int port() const = 0;
  virtual std::shared_ptr<grpc::Channel> InProcessChannel() = 0;
  // Stops: health NOT_SERVING, no new streams, running streams get until `grace` to end, then are cancelled.
  // Idempotent.
  virtual void Shutdown(absl::Duration grace) = 0;
};

}  // namespace flexquant::executor

#endif  // FLEXQUANT_EXECUTOR_SERVER_H_
