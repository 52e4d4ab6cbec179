#ifndef FLEXQUANT_CLIENT_GATEWAY_COMPLETION_CALL_H_
#define FLEXQUANT_CLIENT_GATEWAY_COMPLETION_CALL_H_

#include <httplib.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "client/cpp/client.h"
#include "client/gateway/answer_json.h"
#include "client/gateway/choice_streams.h"
#include "client/gateway/disconnect_watch.h"
#include "client/gateway/gateway_metrics.h"
#include "client/gateway/request_translation.h"

namespace flexquant::gateway {

// The calls that run, to end them together. Thread-safe.
class RunningCalls {
 public:
  void Add(ChoiceStreams* call);
  void Remove(ChoiceStreams* call);
  // Those that run and those that follow end with CANCELLED.
  void CancelAll();
  bool cancelled() const;

 private:
  mutable std::mutex mutex_;
  bool cancelled_ = false;
  std::set<ChoiceStreams*> calls_;
};

// What calls work with; all must outlive them.
struct CallContext {
  const client::Client& client;
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

// One request for a completion, from its translation to the last byte. Its client's going away cancels it at any time.
// Used by the thread of its connection.
class CompletionCall {
 public:
  // `socket`: of its client; -1 = not watched. `arrival`: of the request.
  CompletionCall(const CallContext& context, TranslatedRequest request, const std::string& token, int socket,
                 absl::Time arrival);
  ~CompletionCall();
  CompletionCall(const CompletionCall&) = delete;
  CompletionCall& operator=(const CompletionCall&) = delete;

  // Waits until the answer begins: what fails before is an error with a status of its own.
  absl::Status Begin();
  // The whole answer's JSON. After Begin.
  absl::Status Collect(std::string* body);
  // The answer as server-sent events; an error becomes the last of them. False: the client takes no more. After Begin.
  bool Stream(httplib::DataSink& sink);

  const CompletionFacts& facts() const { return facts_; }

 private:
  // The next event, taken into its choice. False: there is none.
  bool Next();
  // What Next took as a chunk, if there is anything to say.
  void AppendEvent(std::string& out);
  void AppendUsageChunk(std::string& out) const;
  absl::Status Failure();
  std::vector<const v1::GenerationFinished*> Finished() const;

  const CallContext context_;
  const TranslatedRequest request_;
  const int socket_;
  const absl::Time arrival_;
  std::atomic<bool> client_gone_{false};
  AnswerHead head_;
  std::vector<ChoiceJson> choices_;
  std::optional<ChoiceStreams> streams_;
  CompletionFacts facts_;

  // Of the event taken last.
  size_t choice_ = 0;
  v1::GenerateStreamResponse event_;
  absl::Time received_;
};

}  // namespace flexquant::gateway

#endif  // FLEXQUANT_CLIENT_GATEWAY_COMPLETION_CALL_H_
