#ifndef FLEXQUANT_EXECUTOR_SERVER_H_
#define FLEXQUANT_EXECUTOR_SERVER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/store/model_store.h"
#include "executor/model_runner.h"
#include "grpcpp/channel.h"
#include "transport/server_credentials.h"

namespace flexquant::executor {

// Name that the controller's certificate carries unless it was agreed otherwise.
inline constexpr char kControllerName[] = "flexquant-controller";

struct ExecutorOptions {
  std::string model_dir;
  // With TLS, clients must show a certificate, so `listen.tls.ca` is needed too.
  transport::ListenOptions listen;
  // Names of the clients that may call, of which a client's certificate must carry one: the controller's. With TLS
  // only.
  std::vector<std::string> allowed_clients = {kControllerName};
  std::string device = "cpu";  // "cpu", "cuda" (the first GPU), "cuda:N"
  int tensor_parallel = 1;     // ranks that the model is cut among (docs/scale-out.md)
  int num_threads = 0;         // CPU: of all ranks; 0 = physical cores this process may use
  bool pin_threads = false;    // CPU: each thread to a core of its own
  std::string isa;             // empty = best; a name of kernels.h; GPU: "portable"
  uint32_t kv_block_tokens = 16;
  uint64_t kv_cache_bytes = 0;  // 0 = enough for 4 sequences of the model's context, at most a quarter of free memory
  int kv_cache_bits = 16;       // of keys and values; CPU: or 8, half the bytes
  uint32_t max_sequences = 64;  // a step
  uint32_t max_step_tokens = 512;
  uint32_t max_streams = 16;
  bool rescore = true;          // heads below 8 bits: common/rescoring.h
  bool mapped_weights = false;  // CPU: no copy of the weights in memory
  bool coarse_prompts = false;  // CPU: 8-bit activations for prompts (CpuRunnerOptions)
  bool verify_checksum = false;
  // A step that takes longer means that the device hangs.
  absl::Duration step_timeout = absl::Minutes(2);
  // Called at most once, from any thread, when the backend cannot go on (its device failed or hangs): health is
  // NOT_SERVING by then and every step fails; the owner should end the process. A hanging device never lets Shutdown
  // return.
  std::function<void(const absl::Status&)> on_failure;
};

// An executor: the store, the engine and the gRPC service. Thread-safe.
class ExecutorServer {
 public:
  // Loads the model and starts serving. Errors of ModelStore::Open; INVALID_ARGUMENT for bad options;
  // RESOURCE_EXHAUSTED if the KV cache does not fit (says how much is missing); UNAVAILABLE if the port is taken (names
  // it).
  static absl::StatusOr<std::unique_ptr<ExecutorServer>> Create(const ExecutorOptions& options);
  // The same for a store and a backend of the caller's; options about either are not used.
  static absl::StatusOr<std::unique_ptr<ExecutorServer>> Serve(std::unique_ptr<ModelStore> store,
                                                               std::unique_ptr<ModelRunner> runner,
                                                               const ExecutorOptions& options);
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
