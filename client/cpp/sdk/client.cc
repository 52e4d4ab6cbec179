#include "client/cpp/include/flexquant/client.h"

#include <string>
#include <utility>
#include <vector>

#include "client/cpp/answer_stream.h"
#include "client/cpp/client.h"
#include "client/cpp/sdk/convert.h"

namespace flexquant {

struct Cancellation::State {
  client::CancelToken token;
};

struct Client::State {
  std::unique_ptr<client::Client> client;

  // `cancellation` must live as long as what is returned is used.
  static client::CallOptions Call(const CallOptions& options) {
    client::CallOptions call;
    if (options.timeout.has_value()) {
      call.timeout = absl::FromChrono(*options.timeout);
    }
    if (options.cancellation.has_value()) {
      call.cancel = &options.cancellation->state_->token;
    }
    return call;
  }
};

// The connection and the cancellation live as long as the call.
struct AnswerStream::State {
  std::shared_ptr<Client::State> connection;
  CallOptions options;
  std::unique_ptr<client::AnswerStream> stream;
};

namespace {

client::ConnectOptions ToInternal(const ConnectOptions& options) {
  client::ConnectOptions connect;
  if (options.tls.has_value()) {
    connect.security.tls = true;
    connect.security.files = {options.tls->certificate_file, options.tls->key_file, options.tls->ca_file};
    connect.security.server_name = options.tls->server_name;
  }
  connect.token = options.token;
  connect.allow_plaintext_token = options.allow_plaintext_token;
  connect.retry_unavailable = options.retry;
  return connect;
}

void Append(Delta delta, Answer& answer) {
  answer.text += delta.text;
  answer.token_ids.insert(answer.token_ids.end(), delta.token_ids.begin(), delta.token_ids.end());
  answer.tokens.insert(answer.tokens.end(), std::make_move_iterator(delta.tokens.begin()),
                       std::make_move_iterator(delta.tokens.end()));
}

}  // namespace

Cancellation::Cancellation() : state_(std::make_shared<State>()) {}
void Cancellation::Cancel() { state_->token.Cancel(); }
bool Cancellation::cancelled() const { return state_->token.cancelled(); }

AnswerStream::AnswerStream(std::unique_ptr<State> state) : state_(std::move(state)) {}
AnswerStream::~AnswerStream() = default;
AnswerStream::AnswerStream(AnswerStream&&) noexcept = default;
AnswerStream& AnswerStream::operator=(AnswerStream&&) noexcept = default;

std::optional<Event> AnswerStream::Next() {
  v1::GenerateStreamResponse event;
  if (!state_->stream->Next(&event)) {
    return std::nullopt;
  }
  return sdk::FromProto(event);
}

bool AnswerStream::Advance() {
  current_ = Next();
  return current_.has_value();
}

Status AnswerStream::status() const { return sdk::FromAbsl(state_->stream->status()); }

Client::Client(std::shared_ptr<State> state) : state_(std::move(state)) {}

Result<Client> Client::Connect(const ConnectOptions& options) {
  auto client = client::Client::Connect(options.addresses, ToInternal(options));
  if (!client.ok()) {
    return sdk::FromAbsl(client.status());
  }
  (*client)->SetResumeFor(absl::FromChrono(options.resume_for));
  auto state = std::make_shared<State>();
  state->client = *std::move(client);
  return Client(std::move(state));
}

Status Client::WaitReady(const CallOptions& options) const {
  return sdk::FromAbsl(state_->client->WaitReady(State::Call(options)));
}

Result<ServerInfo> Client::GetServerInfo(const CallOptions& options) const {
  const auto info = state_->client->GetServerInfo(State::Call(options));
  if (!info.ok()) {
    return sdk::FromAbsl(info.status());
  }
  return sdk::FromProto(*info);
}

Result<Answer> Client::Generate(const GenerateRequest& request, const CallOptions& options) const {
  Answer answer;
  AnswerStream stream = Stream(request, options);
  while (std::optional<Event> event = stream.Next()) {
    if (auto* started = std::get_if<Started>(&*event)) {
      answer.started = std::move(*started);
    } else if (auto* delta = std::get_if<Delta>(&*event)) {
      Append(std::move(*delta), answer);
    } else {
      answer.finished = std::move(std::get<Finished>(*event));
    }
  }
  if (Status status = stream.status(); !status.ok()) {
    return status;
  }
  return answer;
}

Status Client::Generate(const GenerateRequest& request, const std::function<bool(const Event&)>& on_event,
                        const CallOptions& options) const {
  AnswerStream stream = Stream(request, options);
  for (const Event& event : stream) {
    if (!on_event(event)) {
      Status status;
      status.code = StatusCode::kCancelled;
      status.message = "the function that was given the events ended the answer";
      return status;
    }
  }
  return stream.status();
}

AnswerStream Client::Stream(const GenerateRequest& request, const CallOptions& options) const {
  auto state = std::make_unique<AnswerStream::State>();
  state->connection = state_;
  state->options = options;
  state->stream = state_->client->OpenStream(sdk::ToProto(request), State::Call(state->options));
  return AnswerStream(std::move(state));
}

Status Client::Abort(const std::string& request_id, const CallOptions& options) const {
  return sdk::FromAbsl(state_->client->Abort(request_id, State::Call(options)));
}

namespace {

Result<std::vector<TokenId>> TokenizeWith(const client::Client& client, const v1::TokenizeRequest& request,
                                          const client::CallOptions& options) {
  const auto response = client.Tokenize(request, options);
  if (!response.ok()) {
    return sdk::FromAbsl(response.status());
  }
  return std::vector<TokenId>(response->token_ids().begin(), response->token_ids().end());
}

}  // namespace

Result<std::vector<TokenId>> Client::Tokenize(const std::string& text, bool add_special, bool parse_special,
                                              const CallOptions& options) const {
  v1::TokenizeRequest request;
  request.set_text(text);
  request.set_add_special(add_special);
  request.set_parse_special(parse_special);
  return TokenizeWith(*state_->client, request, State::Call(options));
}

Result<std::vector<TokenId>> Client::Tokenize(const Chat& chat, const CallOptions& options) const {
  v1::TokenizeRequest request;
  sdk::FillChat(chat, *request.mutable_chat());
  return TokenizeWith(*state_->client, request, State::Call(options));
}

Result<std::string> Client::Detokenize(const std::vector<TokenId>& token_ids, const CallOptions& options) const {
  v1::DetokenizeRequest request;
  request.mutable_token_ids()->Add(token_ids.begin(), token_ids.end());
  auto response = state_->client->Detokenize(request, State::Call(options));
  if (!response.ok()) {
    return sdk::FromAbsl(response.status());
  }
  return std::move(*response->mutable_text());
}

const char* SdkVersion() { return FLEXQUANT_VERSION; }

}  // namespace flexquant
