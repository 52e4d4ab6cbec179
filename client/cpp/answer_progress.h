#ifndef FLEXQUANT_CLIENT_CPP_ANSWER_PROGRESS_H_
#define FLEXQUANT_CLIENT_CPP_ANSWER_PROGRESS_H_

#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "flexquant/v1/inference.pb.h"

namespace flexquant::client {

// Between the end of a call and the next one that goes on with its answer.
inline constexpr absl::Duration kResumePause = absl::Milliseconds(200);

// What has come of an answer, so that another call can go on with it. Not thread-safe.
class AnswerProgress {
 public:
  // `resume_for`: how long after the last event another call may begin; 0 = none may, and events are left as they are.
  AnswerProgress(const v1::GenerateRequest& request, absl::Duration resume_for);

  // The request that the next call sends: the first time the user's with the token signals that resuming needs, later
  // one that goes on where the answer stands, with the values that were in force.
  const v1::GenerateRequest& request() const { return request_; }
  // Takes an event and makes of it what the user of one uninterrupted stream would see; false = nothing.
  bool Take(v1::GenerateStreamResponse& event);
  // When the newest event came; before the first one, when this was made.
  absl::Time last_event() const { return last_event_; }
  // What the end of a call to `server` means for the answer: after `finished` there is nothing left to lose, and
  // without it even OK is an error.
  absl::Status EndOf(const absl::Status& call, const std::string& server) const;
  // Whether an answer that ended like this is to be taken up again after kResumePause: it has begun, what was lost is
  // the server or its last executor, not the request, and there is time before `deadline`.
  bool GoesOnAfter(const absl::Status& status, absl::Time deadline = absl::InfiniteFuture()) const;

 private:
  bool resumes() const { return resume_for_ > absl::ZeroDuration(); }

  v1::GenerateRequest request_;
  absl::Duration resume_for_;
  bool wants_token_info_;
  bool started_ = false;
  bool finished_ = false;
  absl::Time last_event_;
};

}  // namespace flexquant::client

#endif  // FLEXQUANT_CLIENT_CPP_ANSWER_PROGRESS_H_
