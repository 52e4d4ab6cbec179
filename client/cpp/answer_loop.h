#ifndef FLEXQUANT_CLIENT_CPP_ANSWER_LOOP_H_
#define FLEXQUANT_CLIENT_CPP_ANSWER_LOOP_H_

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "client/cpp/client.h"
#include "grpcpp/completion_queue.h"

namespace flexquant::client {

// Receives answers of an AnswerLoop. Calls come from the loop's thread, one at a time; they must not wait.
class AnswerListener {
 public:
  virtual ~AnswerListener() = default;
  // `started`, a delta or `finished` of answer `index`, in order. False: no more of it until RunningAnswer::ReadOn.
  virtual bool OnEvent(size_t index, const v1::GenerateStreamResponse& event) = 0;
  // Nothing more has come for now: what the events since the last pause add up to may be passed on.
  virtual void OnPause() = 0;
  // After `finished`, or the error that ended the answer; the last call about it.
  virtual void OnEnd(size_t index, const absl::Status& status) = 0;
};

// An answer on its way. Thread-safe.
class RunningAnswer {
 public:
  virtual ~RunningAnswer() = default;
  // It ends with CANCELLED soon, unless it has ended.
  virtual void Cancel() = 0;
  // After OnEvent returned false; no-op otherwise.
  virtual void ReadOn() = 0;
};

// Many answers read by one thread: with a thread each, every token would cost a switch of threads. Streams that are
// lost are taken up again as by Client::GenerateStream. Thread-safe.
class AnswerLoop {
 public:
  // `client` must outlive this.
  explicit AnswerLoop(const Client& client);
  // Every answer must have ended.
  ~AnswerLoop();
  AnswerLoop(const AnswerLoop&) = delete;
  AnswerLoop& operator=(const AnswerLoop&) = delete;

  // Begins an answer, which `listener` knows by `index` and must outlive. `token`: as in CallOptions.
  std::shared_ptr<RunningAnswer> Start(const v1::GenerateRequest& request, const std::string& token,
                                       AnswerListener* listener, size_t index);

 private:
  class Answer;
  void Run();

  const Client& client_;
  grpc::CompletionQueue queue_;
  std::thread thread_;
};

}  // namespace flexquant::client

#endif  // FLEXQUANT_CLIENT_CPP_ANSWER_LOOP_H_
