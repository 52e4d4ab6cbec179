#include "executor/server.h"

#include <algorithm>
#include <mutex>
#include <thread>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "common/status_macros.h"
#include "common/store/model_store.h"
#include "executor/engine.h"
#include "executor/runner_factory.h"
#include "executor/service.h"
#include "grpcpp/grpcpp.h"
#include "grpcpp/health_check_service_interface.h"
#include "proto/grpc_status.h"
#include "spdlog/spdlog.h"
#include "transport/health_port.h"
#include "transport/keepalive.h"

namespace flexquant::executor {
namespace {

// A step of many long prompts has less than 1 MB, a whole table of plans some 1 MB.
constexpr int kMaxRequestBytes = 16 << 20;
// Logits of many sequences.
constexpr int kMaxResponseBytes = 64 << 20;
constexpr uint32_t kMaxStreams = 4096;

constexpr char kServiceName[] = "flexquant.executor.v1.ExecutorService";
constexpr char kLivenessName[] = "liveness";

absl::Status CheckOptions(const ExecutorOptions& options) {
  if (options.max_streams < 1 || options.max_streams > kMaxStreams) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_streams is ", options.max_streams, "; allowed: 1 to ", kMaxStreams));
  }
  if (!options.listen.tls.empty() && (options.listen.tls.ca.empty() || options.allowed_clients.empty())) {
    return absl::InvalidArgumentError(
        "an executor with TLS accepts only its controller; give --tls-client-ca, and with --allow-client the name in "
        "the "
        "controller's certificate");
  }
  return transport::CheckListenOptions(options.listen);
}

// Only the controller may call. Without TLS nobody has a name, and whoever can connect may.
transport::AccessCheck ControllerOnly(const ExecutorOptions& options) {
  if (options.listen.tls.empty()) {
    return nullptr;
  }
  return [allowed = options.allowed_clients](const transport::Caller& caller) {
    const bool known = std::any_of(caller.names.begin(), caller.names.end(), [&](const std::string& name) {
      return std::find(allowed.begin(), allowed.end(), name) != allowed.end();
    });
    return known ? absl::OkStatus()
                 : absl::PermissionDeniedError(absl::StrCat(
                       "the client's certificate names '", absl::CHexEscape(absl::StrJoin(caller.names, "', '")),
                       "', which may not use this executor; --allow-client of the executor says who may"));
  };
}

class Server final : public ExecutorServer {
 public:
  Server(std::unique_ptr<ModelStore> store, std::unique_ptr<ModelRunner> runner, const ExecutorOptions& options)
      : store_(std::move(store)),
        runner_(std::move(runner)),
        step_timeout_(options.step_timeout),
        on_failure_(options.on_failure),
        engine_(*runner_),
        service_(engine_, {store_->revision(), options.max_streams}) {}

  ~Server() override {
    Shutdown(absl::ZeroDuration());
    if (watchdog_.joinable()) {
      stop_watchdog_.Notify();
      watchdog_.join();
    }
  }

  absl::Status Start(const ExecutorOptions& options) {
    const std::string& listen = options.listen.address;
    grpc::EnableDefaultHealthCheckService(true);
    grpc::ServerBuilder builder;
    builder.RegisterService(&service_);
    builder.SetMaxReceiveMessageSize(kMaxRequestBytes);
    builder.SetMaxSendMessageSize(kMaxResponseBytes);
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
    // Finds peers that vanished, so that their sequences are released.
    transport::AddKeepalive(builder);
    if (!listen.empty()) {
      FQ_ASSIGN_OR_RETURN(const auto credentials,
                          transport::MakeServerCredentials(options.listen, ControllerOnly(options)));
      builder.AddListeningPort(listen, credentials, &port_);
    }
    server_ = builder.BuildAndStart();
    if (server_ == nullptr || (!listen.empty() && port_ == 0)) {
      return transport::CannotListenError(listen);
    }
    if (!options.listen.health_address.empty()) {
      FQ_ASSIGN_OR_RETURN(health_port_, transport::HealthPort::Open(options.listen.health_address));
      health_port_->Set("", true);
    }
    SetHealth(kLivenessName, true);
    SetHealth(kServiceName, true);
    watchdog_ = std::thread([this] { Watch(); });
    return absl::OkStatus();
  }

  int port() const override { return port_; }

  std::shared_ptr<grpc::Channel> InProcessChannel() override {
    grpc::ChannelArguments args;
    args.SetMaxReceiveMessageSize(kMaxResponseBytes);
    args.SetMaxSendMessageSize(kMaxRequestBytes);
    return server_->InProcessChannel(args);
  }

  void Shutdown(absl::Duration grace) override {
    if (server_ == nullptr) {
      return;
    }
    const absl::Time deadline = absl::Now() + grace;
    // One name at a time: SetServingStatus(bool) would take liveness down too, and the process would be killed for it.
    SetHealth(kServiceName, false);
    SetHealth("", false);
    service_.Drain();
    service_.WaitForStreams(std::max(absl::ZeroDuration(), deadline - absl::Now()));
    const std::lock_guard lock(shutdown_mutex_);
    if (!shut_down_) {
      // Streams have had their time; health watchers would hold up a longer wait for ever.
      server_->Shutdown(std::chrono::system_clock::now());
      server_->Wait();
      shut_down_ = true;
    }
  }

 private:
  // Looks once a second whether the backend failed or hangs.
  void Watch() {
    while (!stop_watchdog_.WaitForNotificationWithTimeout(absl::Seconds(1))) {
      absl::Status failure = engine_.Health();
      if (failure.ok() && absl::Now() - engine_.running_since() > step_timeout_) {
        failure = absl::DeadlineExceededError(
            absl::StrCat("a step has run for more than ", absl::FormatDuration(step_timeout_), ": the device hangs"));
      }
      if (failure.ok()) {
        continue;
      }
      spdlog::error("the backend cannot go on: {}", DescribeStatus(failure));
      SetHealth(kServiceName, false);
      SetHealth(kLivenessName, false);
      SetHealth("", false);
      if (on_failure_) {
        on_failure_(failure);
      }
      return;
    }
  }

  void SetHealth(const std::string& name, bool serving) {
    if (auto* health = server_->GetHealthCheckService(); health != nullptr) {
      health->SetServingStatus(name, serving);
    }
    if (health_port_ != nullptr) {
      health_port_->Set(name, serving);
    }
  }

  std::unique_ptr<ModelStore> store_;
  std::unique_ptr<ModelRunner> runner_;
  const absl::Duration step_timeout_;
  const std::function<void(const absl::Status&)> on_failure_;
  Engine engine_;
  ExecutorService service_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<transport::HealthPort> health_port_;  // null if there is none
  int port_ = 0;
  std::mutex shutdown_mutex_;
  bool shut_down_ = false;
  absl::Notification stop_watchdog_;
  std::thread watchdog_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ExecutorServer>> ExecutorServer::Create(const ExecutorOptions& options) {
  FQ_RETURN_IF_ERROR(CheckOptions(options));
  StoreOptions store_options;
  store_options.verify_checksum = options.verify_checksum;
  FQ_ASSIGN_OR_RETURN(std::unique_ptr<ModelStore> store, ModelStore::Open(options.model_dir, store_options));
  FQ_ASSIGN_OR_RETURN(std::unique_ptr<ModelRunner> runner, CreateRunner(*store, options));
  return Serve(std::move(store), std::move(runner), options);
}

absl::StatusOr<std::unique_ptr<ExecutorServer>> ExecutorServer::Serve(std::unique_ptr<ModelStore> store,
                                                                      std::unique_ptr<ModelRunner> runner,
                                                                      const ExecutorOptions& options) {
  FQ_RETURN_IF_ERROR(CheckOptions(options));
  const RunnerInfo& info = runner->info();
  spdlog::info("model {} on {}; KV cache of {} blocks of {} tokens", store->model_name(), info.device, info.kv_blocks,
               info.kv_block_tokens);
  auto server = std::make_unique<Server>(std::move(store), std::move(runner), options);
  // The server starts only now: what a peer can reach is ready, so gRPC's SERVING for "" at its start is true.
  FQ_RETURN_IF_ERROR(server->Start(options));
  return server;
}

}  // namespace flexquant::executor
