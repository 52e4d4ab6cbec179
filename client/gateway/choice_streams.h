#ifndef FLEXQUANT_CLIENT_GATEWAY_CHOICE_STREAMS_H_
#define FLEXQUANT_CLIENT_GATEWAY_CHOICE_STREAMS_H_

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "client/cpp/answer_stream.h"
#include "client/cpp/client.h"

namespace flexquant::gateway {

// The answers of one HTTP request as one stream of events. A single one is read by whoever asks; several have a thread
// each. Used by one thread, but for Cancel.
class ChoiceStreams {
 public:
  // `client` must outlive this. `token`: bearer token of the calls; empty = the client's.
  ChoiceStreams(const client::Client& client, std::vector<v1::GenerateRequest> requests, const std::string& token);
  // Cancels what still runs and waits for it.
  ~ChoiceStreams();
  ChoiceStreams(const ChoiceStreams&) = delete;
  ChoiceStreams& operator=(const ChoiceStreams&) = delete;

  // Waits for the next event of any choice; false: all have ended well, or one failed, which ends the others.
  bool Next(size_t* choice, v1::GenerateStreamResponse* event);
  // Once Next has returned false.
  const absl::Status& status() const { return status_; }
  // The calls end with CANCELLED soon. Thread-safe.
  void Cancel();

 private:
  struct Choice {
    client::CancelToken cancel;
    std::unique_ptr<client::AnswerStream> stream;
    std::thread thread;
  };
  struct Event {
    size_t choice = 0;
    v1::GenerateStreamResponse event;
  };

  void Read(size_t index);

  std::vector<std::unique_ptr<Choice>> choices_;
  absl::Status status_;

  // Of several choices.
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Event> events_;
  size_t running_ = 0;
  absl::Status failure_;
  bool stopped_ = false;
};

}  // namespace flexquant::gateway

#endif  // FLEXQUANT_CLIENT_GATEWAY_CHOICE_STREAMS_H_
