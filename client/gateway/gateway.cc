#include "client/gateway/gateway.h"

#include <algorithm>
#include <mutex>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "client/cpp/answer_loop.h"
#include "client/gateway/completion_call.h"
#include "client/gateway/disconnect_watch.h"
#include "client/gateway/gateway_metrics.h"
#include "client/gateway/openai_error.h"
#include "client/gateway/replies.h"
#include "client/gateway/request_translation.h"
#include "client/gateway/server_json.h"
#include "common/status_macros.h"
#include "spdlog/spdlog.h"
#include "transport/bearer_token.h"

namespace flexquant::gateway {
namespace {

using httplib::Request;
using httplib::Response;

constexpr char kPrecisionHeader[] = "x-flexquant-precision";
constexpr absl::Duration kInfoTimeout = absl::Seconds(10);
constexpr absl::Duration kHealthTimeout = absl::Seconds(1);
// After the grace: for the last chunks to those who read them.
constexpr absl::Duration kLastWordsTime = absl::Seconds(1);
// What the access log and the metrics say of the request that this thread handles.
struct AccessFacts {
  absl::Time arrival;
  std::string route = "other";
  std::shared_ptr<const CompletionFacts> completion;
  absl::Status status;
};
thread_local AccessFacts facts;

// Tells the client and the access log.
void Refuse(const absl::Status& status, Response& res) {
  facts.status = status;
  SetError(status, res);
}

// Values come from clients: they must not look like other fields, or like other lines.
std::string LogWord(const std::string& value) {
  constexpr size_t kMaxBytes = 128;
  std::string word = value.substr(0, kMaxBytes);
  std::replace_if(
      word.begin(), word.end(), [](char c) { return c <= ' ' || c >= 127 || c == '"' || c == '='; }, '?');
  return word;
}

class GatewayImpl final : public Gateway {
 public:
  GatewayImpl(const GatewayOptions& options, std::unique_ptr<client::Client> client,
              std::unique_ptr<DisconnectWatch> watch, std::unique_ptr<HttpServer> http)
      : options_(options), client_(std::move(client)), watch_(std::move(watch)), http_(std::move(http)) {
    // A loop passes on some 100,000 tokens a second; most of the work of serving them is elsewhere.
    const size_t count = std::clamp<size_t>(std::thread::hardware_concurrency() / 4, 1, 4);
    for (size_t i = 0; i < count; ++i) {
      loops_.push_back(std::make_unique<client::AnswerLoop>(*client_));
    }
  }
  ~GatewayImpl() override { Shutdown(absl::ZeroDuration()); }

  absl::Status Listen() {
    // Keys must not cross the network readable; without TLS the server is asked without them.
    passes_keys_on_ = options_.connect.token.empty() &&
                      (options_.connect.security.encrypted() || options_.connect.allow_plaintext_token ||
                       transport::IsLoopback(options_.server));
    SetRoutes();
    FQ_RETURN_IF_ERROR(http_->Listen());
    const transport::ListenOptions& listen = options_.http.listen;
    spdlog::info("serving HTTP{} on {}, port {}, in front of {}", listen.tls.empty() ? "" : "S", listen.address,
                 http_->port(), options_.server);
    if (options_.connect.token.empty() && !passes_keys_on_) {
      spdlog::warn(
          "clients' keys are not passed on to {}, which is reached without TLS: --tls or --ca, or "
          "--allow-plaintext-token if the network is safe",
          options_.server);
    }
    if (!options_.connect.token.empty() && !transport::IsLoopback(listen.address) && listen.tls.ca.empty()) {
      spdlog::warn("whoever reaches {} uses the token of --token-file; --tls-client-ca says who may", listen.address);
    }
    return absl::OkStatus();
  }

  int port() const override { return http_->port(); }

  void Shutdown(absl::Duration grace) override {
    const std::lock_guard lock(shutdown_mutex_);
    if (std::exchange(shut_down_, true)) {
      return;
    }
    draining_ = true;
    http_->Close();
    std::thread reaper([this, deadline = absl::Now() + grace] {
      std::unique_lock reaper_lock(ended_mutex_);
      if (ended_changed_.wait_until(reaper_lock, absl::ToChronoTime(deadline), [this] { return ended_; })) {
        return;
      }
      running_.EndAll();
      if (!ended_changed_.wait_for(reaper_lock, absl::ToChronoMilliseconds(kLastWordsTime),
                                   [this] { return ended_; })) {
        http_->Abort();
      }
    });
    http_->Join();
    {
      const std::lock_guard ended_lock(ended_mutex_);
      ended_ = true;
    }
    ended_changed_.notify_all();
    reaper.join();
  }

 private:
  void SetRoutes() {
    http_->set_pre_routing_handler([this](const Request& req, Response& res) {
      facts = AccessFacts{absl::Now(), "other", nullptr, absl::OkStatus()};
      AddCors(req, res);
      if (!Route(req, res)) {
        return httplib::Server::HandlerResponse::Unhandled;
      }
      if (const std::string length = req.get_header_value("Content-Length");
          req.has_header("Transfer-Encoding") || (!length.empty() && length != "0")) {
        HttpServer::CurrentConnection()->CloseAfterThis();
        res.set_header("Connection", "close");
      }
      return httplib::Server::HandlerResponse::Handled;
    });
    http_->Post("/v1/chat/completions",
                [this](const Request& req, Response& res) { Complete(Endpoint::kChatCompletions, req, res); });
    http_->Post("/v1/completions",
                [this](const Request& req, Response& res) { Complete(Endpoint::kCompletions, req, res); });
    http_->set_error_handler([](const Request& req, Response& res) {
      if (res.body.empty()) {
        SetHttpError(res.status, HttpProblem(req, res.status), "", res);
      }
    });
    http_->set_exception_handler([](const Request& /*req*/, Response& res, const std::exception_ptr& /*exception*/) {
      Refuse(absl::InternalError("the gateway failed; see its log"), res);
    });
    http_->set_logger([this](const Request& req, const Response& res) { Log(req, res); });
  }

  static std::string HttpProblem(const Request& req, int status) {
    if (status == 413) {
      return "the body is larger than this gateway takes (--max-body-mb)";
    }
    if (status == 404) {
      return absl::StrCat("no ", req.method, " ", req.path.substr(0, 100), " here");
    }
    return absl::StrCat("the request could not be read (", status, ")");
  }

  // Answers what has no body of its own to wait for; false: a POST that is routed once its body is read.
  bool Route(const Request& req, Response& res) {
    if (req.method == "POST" && (req.path == "/v1/chat/completions" || req.path == "/v1/completions")) {
      facts.route = req.path;
      // Anything else is what a browser sends from any page without asking.
      if (!absl::StartsWith(req.get_header_value("Content-Type"), kJson)) {
        SetHttpError(415, "the body must be sent as Content-Type: application/json", "unsupported_media_type", res);
        return true;
      }
      if (IsRebound(req)) {
        SetHttpError(403,
                     absl::StrCat("a page of ", req.get_header_value("Origin").substr(0, 100),
                                  " may not call a gateway of this machine; --cors-origin says which pages may"),
                     "origin_not_allowed", res);
        return true;
      }
      return false;
    }
    if (req.method == "OPTIONS" && !options_.cors_origins.empty()) {
      facts.route = "preflight";
      res.status = 204;
      return true;
    }
    return (req.method == "GET" || req.method == "HEAD") && RouteGet(req, res);
  }

  bool RouteGet(const Request& req, Response& res) {
    const std::string& path = req.path;
    if (path == "/health") {
      facts.route = path;
      Health(res);
    } else if (path == "/metrics") {
      facts.route = path;
      res.set_content(metrics_.Text(), "text/plain; version=0.0.4; charset=utf-8");
    } else if (path == "/v1/models" || absl::StartsWith(path, "/v1/models/")) {
      facts.route = "/v1/models";
      Models(req, res);
    } else if (path == "/v1/flexquant/server") {
      facts.route = path;
      if (const auto info = Info(req); info.ok()) {
        res.set_content(ServerJson(*info), kJson);
        res.set_header("Cache-Control", "no-store");
      } else {
        Refuse(info.status(), res);
      }
    } else {
      facts.route = SetPage(req, res) ? "page" : facts.route;
      return facts.route == "page";
    }
    return true;
  }

  // A page of another site whose name was made to mean this machine: to its browser that is the page's own origin.
  bool IsRebound(const Request& req) const {
    return req.has_header("Origin") && transport::IsLoopback(options_.http.listen.address) &&
           !transport::IsLoopback(req.get_header_value("Host")) && !FindOrigin(req).has_value();
  }

  // The --cors-origin that allows a request's page.
  std::optional<std::string> FindOrigin(const Request& req) const {
    const std::string origin = req.get_header_value("Origin");
    for (const std::string& one : options_.cors_origins) {
      if (one == "*" || (!origin.empty() && one == origin)) {
        return one;
      }
    }
    return std::nullopt;
  }

  void AddCors(const Request& req, Response& res) const {
    if (options_.cors_origins.empty()) {
      return;
    }
    const std::optional<std::string> allowed = FindOrigin(req);
    res.set_header("Vary", "Origin");
    if (!allowed.has_value()) {
      return;
    }
    res.set_header("Access-Control-Allow-Origin", *allowed);
    if (req.method == "OPTIONS") {
      res.set_header("Access-Control-Allow-Methods", "GET, POST");
      // What OpenAI's clients send from browsers.
      const std::string wanted = req.get_header_value("Access-Control-Request-Headers");
      res.set_header("Access-Control-Allow-Headers", wanted.empty() || wanted.size() > 1024
                                                         ? "authorization, content-type, x-flexquant-precision"
                                                         : wanted);
      res.set_header("Access-Control-Max-Age", "600");
    }
  }

  void Health(Response& res) const {
    const absl::Status ready = draining_ ? absl::UnavailableError("the gateway is shutting down")
                                         : client_->WaitReady({.timeout = kHealthTimeout});
    if (ready.ok()) {
      res.set_content("{\"status\":\"ok\"}\n", kJson);
    } else {
      Refuse(absl::UnavailableError(ready.message()), res);
    }
  }

  // The bearer token of a request's calls; empty = the client's own, or none.
  absl::StatusOr<std::string> TokenOf(const Request& req) const {
    const std::string header = req.get_header_value("Authorization");
    if (!passes_keys_on_ || header.empty()) {
      return std::string();
    }
    const std::string token(transport::TokenOf(header));
    if (!transport::CheckToken(token).ok()) {
      return absl::UnauthenticatedError("the header Authorization is not 'Bearer KEY' with a key that can be sent");
    }
    return token;
  }

  absl::StatusOr<v1::ServerInfo> Info(const Request& req) const {
    FQ_ASSIGN_OR_RETURN(std::string token, TokenOf(req));
    absl::StatusOr<v1::ServerInfo> info = client_->GetServerInfo({.timeout = kInfoTimeout, .token = std::move(token)});
    if (absl::IsCancelled(info.status())) {
      return EndedByServer(options_.server);
    }
    return info;
  }

  void Models(const Request& req, Response& res) const {
    const auto info = Info(req);
    if (!info.ok()) {
      Refuse(info.status(), res);
      return;
    }
    const absl::string_view id = absl::StripPrefix(req.path, "/v1/models");
    if (id.empty()) {
      res.set_content(ModelListJson(*info, started_), kJson);
    } else if (id.substr(1) == info->model()) {
      res.set_content(ModelJson(*info, started_), kJson);
    } else {
      SetHttpError(404, absl::StrCat("no model '", id.substr(1, 100), "'; this server has '", info->model(), "'"),
                   "model_not_found", res);
    }
  }

  void Complete(Endpoint endpoint, const Request& req, Response& res) {
    auto translated = TranslateRequest(endpoint, req.body, req.get_header_value(kPrecisionHeader));
    const auto token = TokenOf(req);
    if (!translated.ok() || !token.ok()) {
      Refuse(translated.ok() ? token.status() : translated.status(), res);
      return;
    }
    const bool stream = translated->stream;
    const auto call =
        std::make_shared<CompletionCall>(CallContext{NextLoop(), *watch_, running_, metrics_}, *std::move(translated),
                                         *token, *HttpServer::CurrentConnection(), facts.arrival);
    facts.completion = call->facts();
    res.set_header("x-request-id", call->facts()->id);
    absl::Status status = call->Begin();
    if (status.ok() && stream) {
      res.set_header("Cache-Control", "no-store");
      res.set_header("X-Accel-Buffering", "no");  // nginx would gather the answer
      res.set_chunked_content_provider("text/event-stream", [call](size_t /*offset*/, httplib::DataSink& sink) {
        const bool whole = call->Stream(sink);
        if (whole) {
          sink.done();
        }
        return whole;
      });
      return;
    }
    std::string body;
    if (status.ok()) {
      status = call->Collect(&body);
    }
    if (status.ok()) {
      res.set_content(body, kJson);
    } else {
      Refuse(status, res);
    }
  }

  client::AnswerLoop& NextLoop() { return *loops_[next_loop_++ % loops_.size()]; }

  void Log(const Request& req, const Response& res) {
    metrics_.Answered(facts.route, res.status);
    std::string line = absl::StrFormat(
        "method=%s path=\"%s\" status=%d ms=%.1f peer=%s:%d", LogWord(req.method), LogWord(req.path), res.status,
        absl::ToDoubleMilliseconds(absl::Now() - facts.arrival), req.remote_addr, req.remote_port);
    absl::Status status = facts.status;
    if (facts.completion != nullptr) {
      const CompletionFacts& completion = *facts.completion;
      absl::StrAppend(&line, " request_id=", completion.id, " answer_tokens=", completion.answer_tokens);
      if (completion.first_token != absl::InfiniteDuration()) {
        absl::StrAppend(&line, absl::StrFormat(" ttft_ms=%.1f", absl::ToDoubleMilliseconds(completion.first_token)));
      }
      status.Update(completion.status);
    }
    if (!status.ok()) {
      absl::StrAppend(&line, " error=", absl::StatusCodeToString(status.code()));
    }
    spdlog::info("{}", line);
  }

  const GatewayOptions options_;
  const int64_t started_ = absl::ToUnixSeconds(absl::Now());
  const std::unique_ptr<client::Client> client_;
  std::vector<std::unique_ptr<client::AnswerLoop>> loops_;
  std::atomic<size_t> next_loop_{0};
  const std::unique_ptr<DisconnectWatch> watch_;
  GatewayMetrics metrics_;
  RunningCalls running_;
  bool passes_keys_on_ = false;
  std::atomic<bool> draining_{false};
  std::mutex shutdown_mutex_;
  bool shut_down_ = false;
  std::mutex ended_mutex_;
  std::condition_variable ended_changed_;
  bool ended_ = false;
  const std::unique_ptr<HttpServer> http_;  // the first to go: its handlers use the others
};

}  // namespace

absl::StatusOr<std::unique_ptr<Gateway>> Gateway::Start(const GatewayOptions& options) {
  FQ_ASSIGN_OR_RETURN(std::unique_ptr<client::Client> client, client::Client::Connect(options.server, options.connect));
  client->SetResumeFor(options.resume_for);
  FQ_ASSIGN_OR_RETURN(std::unique_ptr<DisconnectWatch> watch, DisconnectWatch::Start());
  FQ_ASSIGN_OR_RETURN(std::unique_ptr<HttpServer> http, HttpServer::Create(options.http));
  auto gateway = std::make_unique<GatewayImpl>(options, std::move(client), std::move(watch), std::move(http));
  FQ_RETURN_IF_ERROR(gateway->Listen());
  return gateway;
}

}  // namespace flexquant::gateway
