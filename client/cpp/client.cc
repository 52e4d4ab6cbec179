#include "client/cpp/client.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/cpp/answer_progress.h"
#include "client/cpp/call_scope.h"
#include "client/cpp/health.h"
#include "common/status_macros.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "grpcpp/support/channel_arguments.h"
#include "proto/grpc_status.h"
#include "transport/bearer_token.h"
#include "transport/keepalive.h"
#include "transport/server_credentials.h"

namespace flexquant::client {
namespace {

// Between two attempts to take a stream up again; Ctrl-C has to wait for it.
constexpr absl::Duration kResumePause = absl::Milliseconds(200);

// A whole answer of a long context with 20 log-probabilities a token has some 45 MB.
constexpr int kMaxReceiveBytes = 64 << 20;

std::shared_ptr<grpc::Channel> MakeChannel(const std::string& address,
                                           const std::shared_ptr<grpc::ChannelCredentials>& credentials,
                                           grpc::ChannelArguments arguments) {
  arguments.SetMaxReceiveMessageSize(kMaxReceiveBytes);
  // A server that is just starting is found soon.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  // A server whose machine went away is noticed during a long answer.
  transport::AddKeepalive(arguments);
  return grpc::CreateCustomChannel(address, credentials, arguments);
}

}  // namespace

Client::Client(const std::string& address)
    : Client(MakeChannel(address, grpc::InsecureChannelCredentials(), grpc::ChannelArguments()), address) {}

absl::StatusOr<std::unique_ptr<Client>> Client::Connect(const std::string& address, const ConnectOptions& options) {
  if (!options.token.empty()) {
    FQ_RETURN_IF_ERROR(transport::CheckToken(options.token));
    if (!options.security.encrypted() && !options.allow_plaintext_token && !transport::IsLoopback(address)) {
      return absl::InvalidArgumentError(absl::StrCat("the token would go to ", address,
                                                     " without TLS, where others could read it; use TLS (--tls or "
                                                     "--ca), or --allow-plaintext-token if the network is safe"));
    }
  }
  FQ_ASSIGN_OR_RETURN(const auto credentials, transport::ChannelCredentials::Open(options.security));
  grpc::ChannelArguments arguments;
  credentials->AddArguments(arguments);
  auto client = std::make_unique<Client>(MakeChannel(address, credentials->Current(), arguments), address);
  if (!options.token.empty()) {
    client->authorization_ = transport::AuthorizationFor(options.token);
  }
  return client;
}

Client::Client(std::shared_ptr<grpc::Channel> channel, std::string name)
    : name_(std::move(name)),
      channel_(std::move(channel)),
      inference_(v1::InferenceService::NewStub(channel_)),
      model_(v1::ModelService::NewStub(channel_)) {}

std::string Client::AuthorizationOf(const std::string& token) const {
  return token.empty() ? authorization_ : transport::AuthorizationFor(token);
}

absl::Status Client::ToStatus(const grpc::Status& status) const {
  absl::Status result = FromGrpcStatus(status);
  // A status made by the channel has no details and does not say which server it means.
  if (result.code() != absl::StatusCode::kUnavailable || !status.error_details().empty()) {
    return result;
  }
  return absl::UnavailableError(absl::StrCat("server ", name_, ": ", std::string(result.message()),
                                             "; is it running, is this its address, and do both sides agree on TLS?"));
}

absl::Status Client::WaitReady(const CallOptions& options) const {
  const absl::Status status = WaitUntilServing(channel_, v1::InferenceService::service_full_name(), options);
  return status.ok() ? status
                     : absl::Status(status.code(), absl::StrCat("server ", name_, ": ", std::string(status.message())));
}

absl::StatusOr<v1::ServerInfo> Client::GetServerInfo(const CallOptions& options) const {
  CallScope scope(options, AuthorizationOf(options.token));
  v1::GetServerInfoResponse response;
  const grpc::Status status = model_->GetServerInfo(scope.context(), v1::GetServerInfoRequest(), &response);
  if (!status.ok()) {
    return ToStatus(status);
  }
  return std::move(*response.mutable_server_info());
}

absl::Status Client::GenerateStream(const v1::GenerateRequest& request,
                                    absl::FunctionRef<void(const v1::GenerateStreamResponse&)> on_event,
                                    const CallOptions& options) const {
  if (resume_for_ <= absl::ZeroDuration()) {
    return StreamOnce(request, on_event, options);
  }
  const absl::Time deadline = absl::Now() + options.timeout;
  AnswerProgress progress(request);
  absl::Time last_event = absl::Now();
  while (true) {
    CallOptions call = options;
    call.timeout = deadline - absl::Now();
    const absl::Status status = StreamOnce(
        progress.request(),
        [&](v1::GenerateStreamResponse event) {
          last_event = absl::Now();
          progress.Take(std::move(event), on_event);
        },
        call);
    const bool cancelled = options.cancel != nullptr && options.cancel->cancelled();
    if (status.ok() || cancelled || !progress.CanGoOnAfter(status) ||
        absl::Now() + kResumePause > std::min(deadline, last_event + resume_for_)) {
      return status;
    }
    absl::SleepFor(kResumePause);
  }
}

absl::Status Client::StreamOnce(const v1::GenerateRequest& request,
                                absl::FunctionRef<void(v1::GenerateStreamResponse)> on_event,
                                const CallOptions& options) const {
  CallScope scope(options, AuthorizationOf(options.token));
  v1::GenerateStreamRequest stream_request;
  *stream_request.mutable_request() = request;
  const auto reader = inference_->GenerateStream(scope.context(), stream_request);
  v1::GenerateStreamResponse event;
  bool finished = false;
  while (reader->Read(&event)) {
    finished = event.has_finished();
    on_event(event);
  }
  const grpc::Status status = reader->Finish();
  if (!status.ok()) {
    return ToStatus(status);
  }
  if (!finished) {
    return absl::InternalError(absl::StrCat("server ", name_, " ended the answer without its last message"));
  }
  return absl::OkStatus();
}

absl::StatusOr<v1::TokenizeResponse> Client::Tokenize(const v1::TokenizeRequest& request,
                                                      const CallOptions& options) const {
  CallScope scope(options, AuthorizationOf(options.token));
  v1::TokenizeResponse response;
  const grpc::Status status = inference_->Tokenize(scope.context(), request, &response);
  if (!status.ok()) {
    return ToStatus(status);
  }
  return response;
}

}  // namespace flexquant::client
