#ifndef FLEXQUANT_CLIENT_GATEWAY_COMPLETION_CALL_H_
#define FLEXQUANT_CLIENT_GATEWAY_COMPLETION_CALL_H_

#include <httplib.h>

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "client/cpp/answer_loop.h"
#include "client/gateway/answer_json.h"
#include "client/gateway/connection.h"
#include "client/gateway/disconnect_watch.h"
#include "client/gateway/gateway_metrics.h"
#include "client/gateway/request_translation.h"

namespace flexquant::gateway {

class CompletionCall;

// The calls that run, to end them together. Thread-safe.
class RunningCalls {
 public:
  void Add(CompletionCall* call);
  void Remove(CompletionCall* call);
  // Those that run and those that follow end because of the gateway's shutdown.
  void EndAll();

 private:
  std::mutex mutex_;
  bool ended_ = false;
  std::set<CompletionCall*> calls_;
};

// What calls work with; all must outlive them.
struct CallContext {
  client::AnswerLoop& loop;
  DisconnectWatch& watch;
  RunningCalls& running;
  GatewayMetrics& metrics;
};

// What the access log says of a completion.
struct CompletionFacts {
  std::string id;
  uint64_t answer_tokens = 0;
  absl::Duration first_token = absl::InfiniteDuration();
  absl::Status status;  // of the answer: a stream that breaks has sent 200 before
};

// One request for a completion, from its translation to the last byte. The loop's thread takes events and sends what a
// client takes at once; the connection's thread waits for the beginning and the end, and for clients that take less.
// A client that goes away ends it at any time.
class CompletionCall final : public client::AnswerListener {
 public:
  // `connection` is the client's. `arrival`: of the request.
  CompletionCall(const CallContext& context, TranslatedRequest request, const std::string& token,
                 Connection& connection, absl::Time arrival);
  ~CompletionCall() override;
  CompletionCall(const CompletionCall&) = delete;
  CompletionCall& operator=(const CompletionCall&) = delete;

  // Waits until the answer begins: what fails before is an error with a status of its own.
  absl::Status Begin();
  // The whole answer's JSON. After Begin.
  absl::Status Collect(std::string* body);
  // The answer as server-sent events; an error becomes the last of them. False: the client takes no more. After Begin.
  bool Stream(httplib::DataSink& sink);
  // Ends it from another thread.
  enum class Cause { kNone, kClientGone, kShutdown };
  void End(Cause cause);

  // To be read once it has ended; outlives it.
  std::shared_ptr<const CompletionFacts> facts() const { return facts_; }

  bool OnEvent(size_t index, const v1::GenerateStreamResponse& event) override;
  void OnPause() override;
  void OnEnd(size_t index, const absl::Status& status) override;

 private:
  // All with mutex_ held.
  void EndLocked(Cause cause);
  void GatherChunks();
  void SendGathered();
  void NoteFirstToken();
  absl::Status Failure() const;
  std::vector<const v1::GenerationFinished*> Finished() const;
  bool all_ended() const { return ended_ == choices_.size(); }
  // Whether the connection's thread has to send what the client did not take.
  bool congested() const { return unsent_.size() > 0 && sending_; }

  // Sends all there is, waiting for the client; false: it is gone. By the connection's thread.
  bool SendAndWait(std::unique_lock<std::mutex>& lock);

  const CallContext context_;
  const TranslatedRequest request_;
  Connection& connection_;
  const absl::Time arrival_;

  std::mutex mutex_;
  std::condition_variable changed_;
  AnswerHead head_;
  std::vector<ChoiceJson> choices_;
  std::vector<std::shared_ptr<client::RunningAnswer>> answers_;
  bool begun_ = false;
  size_t ended_ = 0;        // choices
  bool sending_ = false;    // the response's head is sent: the loop's thread may send
  std::string unsent_;      // chunks of the HTTP response
  std::vector<bool> news_;  // by choice: events since the last pause
  absl::Time first_token_received_ = absl::InfinitePast();
  Cause cause_ = Cause::kNone;
  absl::Status status_;  // of the first choice that failed
  const std::shared_ptr<CompletionFacts> facts_ = std::make_shared<CompletionFacts>();
};

}  // namespace flexquant::gateway

#endif  // FLEXQUANT_CLIENT_GATEWAY_COMPLETION_CALL_H_
