#ifndef FLEXQUANT_CLIENT_CPP_ANSWER_STREAM_H_
#define FLEXQUANT_CLIENT_CPP_ANSWER_STREAM_H_

#include <memory>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "client/cpp/answer_progress.h"
#include "client/cpp/client.h"

namespace flexquant::client {

// One answer whose events are asked for one by one (Client::OpenStream). Its calls end with it. Used by one thread at a
// time; the cancel token of its options may be used by any.
class AnswerStream {
 public:
  ~AnswerStream();
  AnswerStream(const AnswerStream&) = delete;
  AnswerStream& operator=(const AnswerStream&) = delete;

  // Waits for `started`, a delta or `finished`, in order; false: there is no more, and status() says why.
  bool Next(v1::GenerateStreamResponse* event);
  // OK after `finished`, or the error that ended the answer. Only after Next returned false.
  const absl::Status& status() const { return status_; }

 private:
  friend class Client;
  struct Call;

  AnswerStream(const Client& client, const v1::GenerateRequest& request, CallOptions options);
  void Open();
  absl::Status Close();

  const Client& client_;
  const CallOptions options_;
  const absl::Time deadline_;
  AnswerProgress progress_;
  std::unique_ptr<Call> call_;  // null between two calls
  bool ended_ = false;
  absl::Status status_;
};

}  // namespace flexquant::client

#endif  // FLEXQUANT_CLIENT_CPP_ANSWER_STREAM_H_
