#ifndef FLEXQUANT_CLIENT_CPP_CLIENT_H_
#define FLEXQUANT_CLIENT_CPP_CLIENT_H_

// The C++ client of flexquant.v1: blocking calls that return absl::Status with the server's error details.

#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "flexquant/v1/inference.grpc.pb.h"
#include "flexquant/v1/model.grpc.pb.h"
#include "grpcpp/channel.h"
#include "transport/channel_credentials.h"

namespace grpc {
class ClientContext;
}

namespace flexquant::client {

class AnswerStream;

// Cancels calls from another thread: those in progress that hold it and all later ones. Thread-safe; must outlive the
// calls.
class CancelToken {
 public:
  void Cancel();
  bool cancelled() const;

 private:
  friend class CallScope;
  mutable std::mutex mutex_;
  bool cancelled_ = false;
  std::set<grpc::ClientContext*> contexts_;  // of the calls in progress
};

struct CallOptions {
  absl::Duration timeout = absl::InfiniteDuration();
  CancelToken* cancel = nullptr;  // null = cannot be cancelled
  // Bearer token of this call instead of the client's; must pass transport::CheckToken. Empty = the client's. It is not
  // asked whether the connection is encrypted.
  std::string token = {};
};

// How to reach a server and who calls.
struct ConnectOptions {
  transport::ConnectOptions security;
  std::string token;  // bearer token of each call; empty = none
  // The token may go over a connection without TLS to another machine, where whoever listens gets it.
  bool allow_plaintext_token = false;
  // Calls that end with UNAVAILABLE before anything of the answer came are made again, with pauses, four times at most.
  bool retry_unavailable = false;
};

// Thread-safe. Errors are the server's, with their google.rpc details as payloads; UNAVAILABLE names the address;
// CANCELLED after CancelToken::Cancel; DEADLINE_EXCEEDED after `timeout`.
class Client {
 public:
  // A server at "HOST:PORT", without TLS and token. Connects on first use.
  explicit Client(const std::string& address);
  // The same as `options` say; TLS files are read here, once. INVALID_ARGUMENT for a token that cannot be sent or would
  // go over the network readable, and for bad TLS files (names them).
  static absl::StatusOr<std::unique_ptr<Client>> Connect(const std::string& address, const ConnectOptions& options);
  // Any of several servers that serve the same model: the first that can be reached, and when it is lost the next. Each
  // is IP:PORT, all IPv4 or all IPv6; with TLS `server_name` is needed. INVALID_ARGUMENT otherwise.
  static absl::StatusOr<std::unique_ptr<Client>> Connect(const std::vector<std::string>& addresses,
                                                         const ConnectOptions& options);
  // A server behind `channel`; `name` stands for it in errors.
  Client(std::shared_ptr<grpc::Channel> channel, std::string name);

  // A stream that is lost after it began is taken up again where it stood, on this server or, if the address names
  // several, another one, until nothing has come for so long; in isolated mode exactly the same tokens follow. 0 = it
  // ends with what the server or the channel said. Not to be changed while calls run. Default: 30 s.
  void SetResumeFor(absl::Duration duration) { resume_for_ = duration; }

  // Waits until the server's health says SERVING. DEADLINE_EXCEEDED with the last state seen.
  absl::Status WaitReady(const CallOptions& options) const;

  absl::StatusOr<v1::ServerInfo> GetServerInfo(const CallOptions& options = {}) const;

  // The same answer event by event; include client/cpp/answer_stream.h. This must outlive it.
  std::unique_ptr<AnswerStream> OpenStream(const v1::GenerateRequest& request, const CallOptions& options = {}) const;

  // Calls on_event for `started`, each delta and `finished`, in order, from the calling thread. See
  // SetResumeFor for what happens when the stream is lost.
  absl::Status GenerateStream(const v1::GenerateRequest& request,
                              absl::FunctionRef<void(const v1::GenerateStreamResponse&)> on_event,
                              const CallOptions& options = {}) const;

  absl::StatusOr<v1::TokenizeResponse> Tokenize(const v1::TokenizeRequest& request,
                                                const CallOptions& options = {}) const;
  absl::StatusOr<v1::DetokenizeResponse> Detokenize(const v1::DetokenizeRequest& request,
                                                    const CallOptions& options = {}) const;
  // NOT_FOUND if no request of this id runs or waits.
  absl::Status Abort(const std::string& request_id, const CallOptions& options = {}) const;

 private:
  friend class AnswerLoop;
  friend class AnswerStream;

  // Metadata of a call with this token, empty = the client's; empty = none.
  std::string AuthorizationOf(const std::string& token) const;
  absl::Status ToStatus(const grpc::Status& status) const;

  std::string name_;
  absl::Duration resume_for_ = absl::Seconds(30);
  std::string authorization_;  // metadata of each call; empty = none
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::InferenceService::Stub> inference_;
  std::unique_ptr<v1::ModelService::Stub> model_;
};

}  // namespace flexquant::client

#endif  // FLEXQUANT_CLIENT_CPP_CLIENT_H_
