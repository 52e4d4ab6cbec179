#ifndef FLEXQUANT_CLIENT_CPP_INCLUDE_FLEXQUANT_CLIENT_H_
#define FLEXQUANT_CLIENT_CPP_INCLUDE_FLEXQUANT_CLIENT_H_

// C++ SDK of FlexQuant's public protocol, flexquant.v1. Needs C++17 and nothing but the standard library.
//
//   flexquant::ConnectOptions connect;
//   connect.addresses = {"127.0.0.1:50051"};
//   auto client = flexquant::Client::Connect(connect);
//   if (!client.ok()) ...
//   flexquant::GenerateRequest request;
//   request.prompt = "Once upon a time";
//   auto stream = client->Stream(request);
//   for (const flexquant::Event& event : stream) { ... }
//   if (flexquant::Status status = stream.status(); !status.ok()) ...
//
// Errors of every call: the server's, with field errors and retry delay; UNAVAILABLE (names the address) when it cannot
// be reached; CANCELLED after Cancellation::Cancel; DEADLINE_EXCEEDED after CallOptions::timeout; UNAUTHENTICATED for a
// token that the server does not know.

#include <chrono>
#include <cstddef>
#include <functional>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "flexquant/status.h"
#include "flexquant/types.h"

namespace flexquant {

// Cancels calls from another thread: those in progress that were given it or a copy of it, and all later ones.
// Thread-safe.
class FLEXQUANT_API Cancellation {
 public:
  Cancellation();
  void Cancel();
  bool cancelled() const;

 private:
  friend class Client;
  struct State;
  std::shared_ptr<State> state_;
};

struct CallOptions {
  std::optional<std::chrono::nanoseconds> timeout;  // of the whole call, resumptions included; unset = none
  std::optional<Cancellation> cancellation;         // unset = cannot be cancelled
};

// TLS with PEM files, read once by Client::Connect.
struct Tls {
  std::string ca_file;           // authorities of the server's certificate; empty = the system's
  std::string certificate_file;  // of this client, with its chain, for mTLS; empty = none
  std::string key_file;          // of the certificate, without a passphrase
  std::string server_name;       // in the server's certificate; empty = the host of the address
};

struct ConnectOptions {
  // HOST:PORT of one server, or a name of gRPC's such as "dns:///NAME:PORT" or "unix:PATH"; or IP:PORT of several that
  // serve the same model, all IPv4 or all IPv6, with Tls::server_name if there is TLS: the first that can be reached is
  // used, and when it is lost the next.
  std::vector<std::string> addresses;
  std::optional<Tls> tls;  // unset = plaintext
  std::string token;       // bearer token of each call; empty = none
  // The token may go over a connection without TLS to another machine, where whoever listens gets it.
  bool allow_plaintext_token = false;
  // A call that ends with UNAVAILABLE before anything of the answer came is made again, with pauses of 0.1 s to 1 s,
  // four times at most.
  bool retry = true;
  // An answer that was lost after it began (UNAVAILABLE, or ABORTED with reason EXECUTOR_LOST) is taken up again where
  // it stood, there or at another address, until nothing has come for so long. In isolated mode exactly the tokens
  // follow that would have come. 0 = it ends with the error.
  std::chrono::nanoseconds resume_for = std::chrono::seconds(30);
};

// An answer read event by event: first Started, any number of Delta, last Finished. One event is read at a time and the
// server stops generating when little is read, so memory is bounded; a server ends streams that are not read at all.
// Destroying it before its end cancels the answer. Not thread-safe, but its Cancellation is. Keeps the connection.
class FLEXQUANT_API AnswerStream {
 public:
  class iterator {
   public:
    using iterator_category = std::input_iterator_tag;
    using value_type = Event;
    using difference_type = std::ptrdiff_t;
    using pointer = const Event*;
    using reference = const Event&;

    reference operator*() const { return *stream_->current_; }
    pointer operator->() const { return &*stream_->current_; }
    iterator& operator++() {
      if (!stream_->Advance()) {
        stream_ = nullptr;
      }
      return *this;
    }
    void operator++(int) { ++*this; }
    friend bool operator==(const iterator& a, const iterator& b) { return a.stream_ == b.stream_; }
    friend bool operator!=(const iterator& a, const iterator& b) { return a.stream_ != b.stream_; }

   private:
    friend class AnswerStream;
    explicit iterator(AnswerStream* stream) : stream_(stream) {}
    AnswerStream* stream_;  // null = the end
  };

  ~AnswerStream();
  AnswerStream(AnswerStream&&) noexcept;
  AnswerStream& operator=(AnswerStream&&) noexcept;

  // Waits for the next event; none at the end.
  std::optional<Event> Next();
  // How it ended; OK until then.
  Status status() const;

  // The events that Next has not given yet. For one loop.
  iterator begin() { return Advance() ? iterator(this) : end(); }
  iterator end() { return iterator(nullptr); }

 private:
  friend class Client;
  struct State;
  explicit AnswerStream(std::unique_ptr<State> state);
  bool Advance();  // Next into current_

  std::unique_ptr<State> state_;
  std::optional<Event> current_;
};

// A connection to a server. Thread-safe; copies are the same connection, which ends with the last of them and of its
// streams. Calls block their thread.
class FLEXQUANT_API Client {
 public:
  // Connects on first use: a server that is not there makes the first call fail, not this. INVALID_ARGUMENT for
  // addresses, token or TLS files that cannot be used (names them), and for a token that would go over the network
  // readable.
  static Result<Client> Connect(const ConnectOptions& options);

  // Waits until the server is ready. DEADLINE_EXCEEDED with what was seen last.
  Status WaitReady(const CallOptions& options = {}) const;
  Result<ServerInfo> GetServerInfo(const CallOptions& options = {}) const;

  // The whole answer.
  Result<Answer> Generate(const GenerateRequest& request, const CallOptions& options = {}) const;
  // Calls on_event with each event from the calling thread; the next one is read when it returns. It returns whether to
  // go on: false ends the call with CANCELLED. What it throws comes out of here, and the answer is cancelled.
  Status Generate(const GenerateRequest& request, const std::function<bool(const Event&)>& on_event,
                  const CallOptions& options = {}) const;
  // The answer as a stream. The call is made with the first event read, its timeout begins here. An error ends the
  // stream: see AnswerStream::status.
  AnswerStream Stream(const GenerateRequest& request, const CallOptions& options = {}) const;

  // Ends a running or waiting request by the id that its client chose: its call ends with CANCELLED. NOT_FOUND if there
  // is none.
  Status Abort(const std::string& request_id, const CallOptions& options = {}) const;

  // Token ids of a text, with begin-of-sequence if `add_special` and the model has it; `parse_special`: special tokens
  // written out in the text are read as such.
  Result<std::vector<TokenId>> Tokenize(const std::string& text, bool add_special = false, bool parse_special = false,
                                        const CallOptions& options = {}) const;
  // Token ids of a chat after the model's chat template.
  Result<std::vector<TokenId>> Tokenize(const Chat& chat, const CallOptions& options = {}) const;
  // Valid UTF-8; incomplete code points become U+FFFD.
  Result<std::string> Detokenize(const std::vector<TokenId>& token_ids, const CallOptions& options = {}) const;

 private:
  friend class AnswerStream;
  struct State;
  explicit Client(std::shared_ptr<State> state);
  std::shared_ptr<State> state_;
};

// Version of the library that runs, such as "0.1.0".
FLEXQUANT_API const char* SdkVersion();

}  // namespace flexquant

#endif  // FLEXQUANT_CLIENT_CPP_INCLUDE_FLEXQUANT_CLIENT_H_
