#ifndef FLEXQUANT_CONTROLLER_GENERATION_CALL_H_
#define FLEXQUANT_CONTROLLER_GENERATION_CALL_H_

// The RPCs that generate: each is the reactor of its call and the sink of its answer.

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "controller/access_control.h"
#include "controller/generation.h"
#include "controller/metrics.h"
#include "controller/model_package.h"
#include "controller/observed_sink.h"
#include "controller/scheduler.h"
#include "flexquant/v1/inference.grpc.pb.h"

namespace flexquant::controller {

// The call's metadata "authorization"; empty = none.
absl::string_view AuthorizationOf(const grpc::CallbackServerContext& context);

// What a call works with; all must outlive it.
struct CallEnvironment {
  const ModelPackage& model;
  Scheduler& scheduler;
  AccessControl& access;
  Metrics& metrics;
};

// What both kinds of call share: whose it is, validation, submission, cancellation. Thread-safe.
class GenerationCall : public GenerationSink {
 protected:
  explicit GenerationCall(const CallEnvironment& environment) : environment_(environment) {}

  // Identifies the tenant, validates and submits; an error has been told to nobody.
  absl::Status Submit(const v1::GenerateRequest& request, const grpc::CallbackServerContext& context,
                      std::shared_ptr<GenerationSink> self);
  void Cancel();
  // What token_info sends of a token.
  v1::TokenInfo InfoOf(const AnswerToken& token) const;
  Scheduler& scheduler() { return environment_.scheduler; }
  // The answer has begun, has grown by `tokens`, has ended: before the client can know it, so that its next request
  // finds the place free. Called as the sink is, one at a time.
  void NoteStarted();
  void NoteTokens(uint64_t tokens);
  void NoteEnded();

  // Set by Submit before the answer can begin.
  v1::GenerationStarted started_;
  bool token_info_ = false;
  bool token_text_ = false;

 private:
  const CallEnvironment environment_;
  // Submit without observing a refusal; fills in what is known of the request.
  absl::Status Accept(const v1::GenerateRequest& request, const grpc::CallbackServerContext& context,
                      std::shared_ptr<GenerationSink> self, RequestFacts& facts);

  std::optional<TenantSlot> slot_;
  std::mutex id_mutex_;
  std::optional<uint64_t> id_;
  bool cancelled_ = false;
};

// GenerateStream. Deltas that arrive while a write is under way leave together in the next one, so a slow reader costs
// no more messages than it reads; when many tokens wait for a write it is congested.
class StreamCall final : public grpc::ServerWriteReactor<v1::GenerateStreamResponse>,
                         public GenerationCall,
                         public std::enable_shared_from_this<StreamCall> {
 public:
  static StreamCall* Start(const v1::GenerateRequest& request, grpc::CallbackServerContext& context,
                           const CallEnvironment& environment);

 private:
  StreamCall(const CallEnvironment& environment, grpc::CallbackServerContext& context)
      : GenerationCall(environment), context_(context) {}

  void OnStarted(double backend_kl) override;
  void OnDelta(AnswerDelta delta) override;
  void OnFinished(AnswerEnd end) override;
  void OnFailed(absl::Status status) override;
  bool congested() const override { return congested_.load(std::memory_order_relaxed); }
  void OnWriteDone(bool ok) override;
  void OnCancel() override { Cancel(); }
  void OnDone() override;
  void Advance();  // with mutex_ held: the next write, or the end

  grpc::CallbackServerContext& context_;
  std::shared_ptr<StreamCall> self_;  // until OnDone
  std::atomic<bool> congested_{false};
  std::mutex mutex_;
  bool start_pending_ = false;
  std::optional<v1::GenerationDelta> delta_;
  std::optional<v1::GenerationFinished> finished_;
  std::optional<absl::Status> failure_;
  bool writing_ = false;
  bool broken_ = false;  // the client is gone
  bool ended_ = false;   // the reactor's end has been started
  v1::GenerateStreamResponse outgoing_;
};

// Generate.
class UnaryCall final : public grpc::ServerUnaryReactor,
                        public GenerationCall,
                        public std::enable_shared_from_this<UnaryCall> {
 public:
  static UnaryCall* Start(const v1::GenerateRequest& request, const grpc::CallbackServerContext& context,
                          const CallEnvironment& environment, v1::GenerateResponse* response);

 private:
  UnaryCall(const CallEnvironment& environment, v1::GenerateResponse* response)
      : GenerationCall(environment), response_(response) {}

  void OnStarted(double backend_kl) override;
  void OnDelta(AnswerDelta delta) override;
  void OnFinished(AnswerEnd end) override;
  void OnFailed(absl::Status status) override;
  void OnCancel() override { Cancel(); }
  void OnDone() override;

  std::shared_ptr<UnaryCall> self_;  // until OnDone
  v1::GenerateResponse* const response_;
};

}  // namespace flexquant::controller

#endif  // FLEXQUANT_CONTROLLER_GENERATION_CALL_H_
