#ifndef FLEXQUANT_CONTROLLER_SERVER_H_
#define FLEXQUANT_CONTROLLER_SERVER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "grpcpp/channel.h"
#include "transport/channel_credentials.h"
#include "transport/server_credentials.h"

namespace flexquant::controller {

// Where an executor is.
struct ExecutorTarget {
  // "HOST:PORT"; "dns:NAME:PORT" = an executor at every address that NAME has at a time; or a name for `channel`.
  std::string address;
  std::shared_ptr<grpc::Channel> channel;                                // null = connect to `address`
  std::shared_ptr<transport::ChannelCredentials> credentials = nullptr;  // to connect with; null = plaintext
};

struct DnsName {
  std::string host;
  std::string port;
};

// All addresses of a name, as HOST:PORT; NOT_FOUND if it has none, another error if that cannot be said.
using AddressResolver = std::function<absl::StatusOr<std::vector<std::string>>(const DnsName& name)>;

struct ControllerOptions {
  std::string model_dir;  // the package: config, tokenizer and manifest (weights are not read)
  transport::ListenOptions listen;
  // Whose bearer tokens the public services accept (docs/security.md); empty = everybody may use them, in-process too.
  std::string tokens_file;
  std::vector<ExecutorTarget> executors;  // at least one
  // Names among them are looked up so often, by this; null = the system's resolver.
  absl::Duration resolve_interval = absl::Seconds(5);
  AddressResolver resolve;
  int lookahead = 1;  // 0 = wait for each step's result; 1 = send the next step before it
  // What may wait for an executor: requests, and their prompt and most answer tokens together.
  uint32_t max_queued_requests = 256;
  uint64_t max_queued_tokens = 4'000'000;
  // How long accepted requests wait when no executor is left; 0 = they fail at once.
  absl::Duration failover_timeout = absl::Seconds(30);
  // An executor that owes a step's result for longer counts as dead.
  absl::Duration step_timeout = absl::Minutes(1);
  // A stream whose client reads nothing for so long ends.
  absl::Duration slow_reader_timeout = absl::Seconds(30);
  uint32_t prefill_chunk_tokens = 256;
  // A step that decodes has so much of prompts that it takes about so long at most; infinite = what fits the chunk.
  absl::Duration max_step_time = absl::Milliseconds(50);
  // Share in [0, 1] of the decode steps under `max_mean_kl` and `target_mean_bits` whose KL is measured, on executors
  // that can.
  double audit_rate = 0.01;
  bool reflection = true;
  std::string metrics_listen;  // "HOST:PORT" of http://.../metrics; empty = none
};

// A controller: requests, tokenizer, templates, scheduling, precision; the public services. Thread-safe.
class ControllerServer {
 public:
  // Loads the package and starts serving; executors are reached in the background (not SERVING until one is). Errors as
  // of the package's readers; INVALID_ARGUMENT for bad options; UNAVAILABLE if the port is taken (names it).
  static absl::StatusOr<std::unique_ptr<ControllerServer>> Create(const ControllerOptions& options);
  virtual ~ControllerServer() = default;

  virtual int port() const = 0;
  // Of the metrics; 0 if there are none.
  virtual int metrics_port() const = 0;
  virtual std::shared_ptr<grpc::Channel> InProcessChannel() = 0;
  // Blocks until an executor is ready; DEADLINE_EXCEEDED with the last reason otherwise.
  virtual absl::Status WaitReady(absl::Duration timeout) = 0;
  // Health NOT_SERVING, new requests UNAVAILABLE, running ones may finish until `grace`, then end with UNAVAILABLE.
  // Idempotent.
  virtual void Shutdown(absl::Duration grace) = 0;
};

}  // namespace flexquant::controller

#endif  // FLEXQUANT_CONTROLLER_SERVER_H_
