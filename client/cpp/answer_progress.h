#ifndef FLEXQUANT_CLIENT_CPP_ANSWER_PROGRESS_H_
#define FLEXQUANT_CLIENT_CPP_ANSWER_PROGRESS_H_

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "flexquant/v1/inference.pb.h"

namespace flexquant::client {

// What has come of an answer, so that another call can go on with it. Not thread-safe.
class AnswerProgress {
 public:
  explicit AnswerProgress(const v1::GenerateRequest& request);

  // The request that the next call sends: the first time the user's with the token signals that resuming needs, later
  // one that goes on where the answer stands, with the values that were in force.
  const v1::GenerateRequest& request() const { return request_; }
  // Takes an event and hands it on as the user of one uninterrupted stream would see it.
  void Take(v1::GenerateStreamResponse event, absl::FunctionRef<void(const v1::GenerateStreamResponse&)> on_event);
  // Whether a call that ended like this can be followed by another one: the answer has begun, and what was lost is the
  // server or its last executor, not the request.
  bool CanGoOnAfter(const absl::Status& status) const;

 private:
  v1::GenerateRequest request_;
  bool wants_token_info_;
  bool started_ = false;
};

}  // namespace flexquant::client

#endif  // FLEXQUANT_CLIENT_CPP_ANSWER_PROGRESS_H_
