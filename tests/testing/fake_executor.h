#ifndef FLEXQUANT_TESTS_TESTING_FAKE_EXECUTOR_H_
#define FLEXQUANT_TESTS_TESTING_FAKE_EXECUTOR_H_

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "flexquant/executor/v1/executor.grpc.pb.h"
#include "grpcpp/channel.h"
#include "grpcpp/server.h"

namespace flexquant::testing {

struct FakeExecutorOptions {
  std::string instance_id = "epoch-1";
  std::string model_revision = "revision";
  uint32_t num_layer_groups = 9;
  bool has_reference = false;
  uint32_t num_kv_blocks = 64;
  uint32_t kv_block_tokens = 4;
  uint32_t max_sequences = 8;
  uint32_t max_step_tokens = 64;
  uint32_t kv_cache_bits = 16;     // as it describes itself
  std::optional<double> audit_kl;  // result of every audit; none = audits are not offered
};

// What the fake samples.
struct ScriptedToken {
  uint32_t id = 0;
  float entropy_nats = 0;
  absl::Status error;  // not OK: the sequence's result instead of a token
};

// One sequence's part of a step as it arrived, with the plan its id stood for.
struct RecordedSequence {
  uint64_t sequence_id = 0;
  std::vector<int> plan;  // bits a layer group
  uint32_t position = 0;
  std::vector<uint32_t> token_ids;
  bool sample = false;
  std::optional<executor::v1::SequenceStart> start;
};
using RecordedStep = std::vector<RecordedSequence>;

// An executor without a model behind an in-process channel: follows executor.proto, checks everything a controller must
// keep to, and samples from a script. Thread-safe.
class FakeExecutor {
 public:
  // Answer token `index` of the sequence with this prompt.
  using Script = std::function<ScriptedToken(const std::vector<uint32_t>& prompt, uint32_t index)>;

  FakeExecutor(const FakeExecutorOptions& options, Script script);
  ~FakeExecutor();

  std::shared_ptr<grpc::Channel> channel() const { return channel_; }

  // Results are held back from now on; steps still arrive.
  void HoldResults();
  // Sends `count` held or future results, then holds again.
  void AllowResults(uint64_t count);
  // Sends all.
  void ResumeResults();

  // Every stream ends with UNAVAILABLE; nothing is answered until Restart.
  void Die();
  // Says that it is shutting down, makes no new sequences, and ends streams that have none.
  void Drain();
  // Another epoch.
  void Restart(const std::string& instance_id);

  // True once `count` steps have arrived, counted over all streams; false after 30 s.
  bool WaitForSteps(size_t count) const;
  // Returns once no step has arrived for so long.
  void WaitUntilQuiet(absl::Duration duration) const;
  // True once no sequence is left; false after 30 s.
  bool WaitUntilIdle() const;

  std::vector<RecordedStep> steps() const;
  // What the controller did wrong.
  std::vector<std::string> violations() const;
  // Streams opened so far.
  int streams_opened() const;

 private:
  class Service;
  class Stream;

  bool ResultAllowed();  // takes one from the allowance

  const FakeExecutorOptions options_;
  const Script script_;

  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  std::string instance_id_;
  bool alive_ = true;
  bool draining_ = false;
  bool holding_ = false;
  uint64_t allowed_ = 0;
  size_t live_sequences_ = 0;
  int streams_opened_ = 0;
  std::set<Stream*> streams_;
  std::map<uint32_t, std::vector<uint32_t>> contents_;  // of the KV blocks that are full: their tokens and all before
  std::vector<RecordedStep> steps_;
  std::vector<std::string> violations_;

  std::unique_ptr<Service> service_;
  std::unique_ptr<grpc::Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
};

}  // namespace flexquant::testing

#endif  // FLEXQUANT_TESTS_TESTING_FAKE_EXECUTOR_H_
