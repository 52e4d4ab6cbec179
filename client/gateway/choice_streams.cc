#include "client/gateway/choice_streams.h"

#include <utility>

namespace flexquant::gateway {
namespace {

// Events that may wait for a client; then the server waits, as it does for a stream that nobody reads.
constexpr size_t kMaxEvents = 64;

}  // namespace

ChoiceStreams::ChoiceStreams(const client::Client& client, std::vector<v1::GenerateRequest> requests,
                             const std::string& token) {
  for (const v1::GenerateRequest& request : requests) {
    Choice& choice = *choices_.emplace_back(std::make_unique<Choice>());
    client::CallOptions options;
    options.cancel = &choice.cancel;
    options.token = token;
    choice.stream = client.OpenStream(request, options);
  }
  if (choices_.size() > 1) {
    running_ = choices_.size();
    for (size_t i = 0; i < choices_.size(); ++i) {
      choices_[i]->thread = std::thread([this, i] { Read(i); });
    }
  }
}

ChoiceStreams::~ChoiceStreams() {
  Cancel();
  {
    const std::lock_guard lock(mutex_);
    stopped_ = true;
  }
  changed_.notify_all();
  for (const auto& choice : choices_) {
    if (choice->thread.joinable()) {
      choice->thread.join();
    }
  }
}

void ChoiceStreams::Cancel() {
  for (const auto& choice : choices_) {
    choice->cancel.Cancel();
  }
}

void ChoiceStreams::Read(size_t index) {
  client::AnswerStream& stream = *choices_[index]->stream;
  Event next{index, {}};
  while (stream.Next(&next.event)) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return stopped_ || events_.size() < kMaxEvents; });
    if (stopped_) {
      break;
    }
    events_.push_back(std::move(next));
    next = {index, {}};
    changed_.notify_all();
  }
  const std::lock_guard lock(mutex_);
  --running_;
  if (!stopped_ && failure_.ok()) {
    failure_ = stream.status();
  }
  changed_.notify_all();
}

bool ChoiceStreams::Next(size_t* choice, v1::GenerateStreamResponse* event) {
  if (choices_.size() == 1) {
    *choice = 0;
    const bool more = choices_[0]->stream->Next(event);
    if (!more) {
      status_ = choices_[0]->stream->status();
    }
    return more;
  }
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return !events_.empty() || !failure_.ok() || running_ == 0; });
  if (!failure_.ok() || events_.empty()) {
    status_ = failure_;
    stopped_ = true;
    lock.unlock();
    changed_.notify_all();
    Cancel();
    return false;
  }
  *choice = events_.front().choice;
  *event = std::move(events_.front().event);
  events_.pop_front();
  changed_.notify_all();
  return true;
}

}  // namespace flexquant::gateway
