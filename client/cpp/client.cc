#include "client/cpp/client.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/cpp/answer_stream.h"
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

// A whole answer of a long context with 20 log-probabilities a token has some 45 MB.
constexpr int kMaxReceiveBytes = 64 << 20;

// gRPC makes a call again only while no part of an answer, not even its headers, has come.
constexpr char kRetryUnavailable[] = R"({"methodConfig": [{
  "name": [{"service": "flexquant.v1.InferenceService"}, {"service": "flexquant.v1.ModelService"}],
  "retryPolicy": {"maxAttempts": 5, "initialBackoff": "0.1s", "maxBackoff": "1s", "backoffMultiplier": 2,
                  "retryableStatusCodes": ["UNAVAILABLE"]}}]})";
// Larger requests would be sent once only; a request has at most 16 MiB.
constexpr int kRetryBufferBytes = 16 << 20;

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

// gRPC's name of any of the addresses.
absl::StatusOr<std::string> TargetOf(const std::vector<std::string>& addresses,
                                     const transport::ConnectOptions& security) {
  if (addresses.empty()) {
    return absl::InvalidArgumentError("no address of a server; needed: HOST:PORT");
  }
  if (addresses.size() == 1) {
    return addresses[0];
  }
  const bool ipv6 = absl::StartsWith(addresses[0], "[");
  for (const std::string& address : addresses) {
    const absl::string_view host = absl::string_view(address).substr(0, address.rfind(':'));
    const bool is_ip = ipv6 ? absl::StartsWith(address, "[") && absl::EndsWith(host, "]")
                            : host.size() < address.size() && !host.empty() &&
                                  host.find_first_not_of("0123456789.") == absl::string_view::npos;
    if (!is_ip) {
      return absl::InvalidArgumentError(
          absl::StrCat("address '", address, "' of several is not ", ipv6 ? "[IPv6]:PORT" : "IPv4:PORT",
                       "; for names, give one that has all addresses, as dns:///NAME:PORT"));
    }
  }
  if (security.encrypted() && security.server_name.empty()) {
    return absl::InvalidArgumentError("TLS with several addresses needs the name in the servers' certificates");
  }
  return absl::StrCat(ipv6 ? "ipv6:" : "ipv4:", absl::StrJoin(addresses, ","));
}

}  // namespace

Client::Client(const std::string& address)
    : Client(MakeChannel(address, grpc::InsecureChannelCredentials(), grpc::ChannelArguments()), address) {}

absl::StatusOr<std::unique_ptr<Client>> Client::Connect(const std::string& address, const ConnectOptions& options) {
  return Connect(std::vector<std::string>{address}, options);
}

absl::StatusOr<std::unique_ptr<Client>> Client::Connect(const std::vector<std::string>& addresses,
                                                        const ConnectOptions& options) {
  FQ_ASSIGN_OR_RETURN(const std::string target, TargetOf(addresses, options.security));
  if (!options.token.empty()) {
    FQ_RETURN_IF_ERROR(transport::CheckToken(options.token));
    for (const std::string& address : addresses) {
      if (!options.security.encrypted() && !options.allow_plaintext_token && !transport::IsLoopback(address)) {
        return absl::InvalidArgumentError(absl::StrCat("the token would go to ", address,
                                                       " without TLS, where others could read it; use TLS (--tls or "
                                                       "--ca), or --allow-plaintext-token if the network is safe"));
      }
    }
  }
  FQ_ASSIGN_OR_RETURN(const auto credentials, transport::ChannelCredentials::Open(options.security));
  grpc::ChannelArguments arguments;
  credentials->AddArguments(arguments);
  if (options.retry_unavailable) {
    arguments.SetServiceConfigJSON(kRetryUnavailable);
    arguments.SetInt(GRPC_ARG_PER_RPC_RETRY_BUFFER_SIZE, kRetryBufferBytes);
  }
  auto client = std::make_unique<Client>(MakeChannel(target, credentials->Current(), arguments), target);
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

std::unique_ptr<AnswerStream> Client::OpenStream(const v1::GenerateRequest& request, const CallOptions& options) const {
  return std::unique_ptr<AnswerStream>(new AnswerStream(*this, request, options));
}

absl::Status Client::GenerateStream(const v1::GenerateRequest& request,
                                    absl::FunctionRef<void(const v1::GenerateStreamResponse&)> on_event,
                                    const CallOptions& options) const {
  const std::unique_ptr<AnswerStream> stream = OpenStream(request, options);
  v1::GenerateStreamResponse event;
  while (stream->Next(&event)) {
    on_event(event);
  }
  return stream->status();
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

absl::StatusOr<v1::DetokenizeResponse> Client::Detokenize(const v1::DetokenizeRequest& request,
                                                          const CallOptions& options) const {
  CallScope scope(options, AuthorizationOf(options.token));
  v1::DetokenizeResponse response;
  const grpc::Status status = inference_->Detokenize(scope.context(), request, &response);
  if (!status.ok()) {
    return ToStatus(status);
  }
  return response;
}

absl::Status Client::Abort(const std::string& request_id, const CallOptions& options) const {
  CallScope scope(options, AuthorizationOf(options.token));
  v1::AbortRequest request;
  request.set_request_id(request_id);
  v1::AbortResponse response;
  return ToStatus(inference_->Abort(scope.context(), request, &response));
}

}  // namespace flexquant::client
