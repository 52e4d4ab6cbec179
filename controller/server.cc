#include "controller/server.h"

#include <array>
#include <mutex>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "common/status_macros.h"
#include "controller/access_control.h"
#include "controller/executor_directory.h"
#include "controller/inference_service.h"
#include "controller/model_package.h"
#include "controller/model_service.h"
#include "controller/scheduler.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/health_check_service_interface.h"
#include "grpcpp/impl/server_builder_option.h"
#include "grpcpp/impl/server_builder_plugin.h"
#include "grpcpp/server_builder.h"
#include "spdlog/spdlog.h"
#include "transport/health_port.h"
#include "transport/keepalive.h"

namespace flexquant::controller {
namespace {

constexpr int kMaxReceiveBytes = 16 << 20;
// A whole answer of a long context with 20 log-probabilities a token has some 45 MB.
constexpr int kMaxSendBytes = 64 << 20;
constexpr absl::Duration kLastWordsTime = absl::Seconds(2);
constexpr std::array<const char*, 3> kReadinessNames = {"", "flexquant.v1.InferenceService",
                                                        "flexquant.v1.ModelService"};

// gRPC's plugins are registered for the whole process; this takes reflection out of one server.
class WithoutReflection final : public grpc::ServerBuilderOption {
 public:
  void UpdateArguments(grpc::ChannelArguments* /*args*/) override {}
  void UpdatePlugins(std::vector<std::unique_ptr<grpc::ServerBuilderPlugin>>* plugins) override {
    std::erase_if(*plugins, [](const auto& plugin) { return plugin->name() == "proto_server_reflection"; });
  }
};

std::string RandomInstanceId() {
  std::random_device device;
  return absl::StrFormat("%08x%08x", device(), device());
}

absl::Status CheckOptions(const ControllerOptions& options) {
  if (options.executors.empty()) {
    return absl::InvalidArgumentError("no executor; give at least one address");
  }
  for (const ExecutorTarget& target : options.executors) {
    if (target.address.empty()) {
      return absl::InvalidArgumentError("an executor has no address; give HOST:PORT");
    }
    if (IsDnsAddress(target.address)) {
      FQ_RETURN_IF_ERROR(ParseDnsAddress(target.address).status());
    }
  }
  if (options.lookahead < 0 || options.lookahead > 1) {
    return absl::InvalidArgumentError(absl::StrCat("lookahead ", options.lookahead, " is not 0 or 1"));
  }
  if (!(options.audit_rate >= 0 && options.audit_rate <= 1)) {
    return absl::InvalidArgumentError(absl::StrCat("audit_rate ", options.audit_rate, " is outside [0, 1]"));
  }
  if (options.max_queued_requests == 0) {
    return absl::InvalidArgumentError("max_queued_requests is 0; at least 1 is needed to accept a request");
  }
  if (options.max_queued_tokens == 0) {
    return absl::InvalidArgumentError("max_queued_tokens is 0; at least 1 is needed to accept a request");
  }
  if (options.step_timeout <= absl::ZeroDuration() || options.slow_reader_timeout <= absl::ZeroDuration()) {
    return absl::InvalidArgumentError("step_timeout and slow_reader_timeout must be longer than 0 s");
  }
  if (options.resolve_interval <= absl::ZeroDuration()) {
    return absl::InvalidArgumentError("resolve_interval must be longer than 0 s");
  }
  if (options.prefill_chunk_tokens == 0) {
    return absl::InvalidArgumentError("prefill_chunk_tokens is 0; at least 1 is needed to read a prompt");
  }
  return transport::CheckListenOptions(options.listen);
}

class ControllerServerImpl final : public ControllerServer {
 public:
  explicit ControllerServerImpl(ModelPackage model) : model_(std::move(model)) {}
  ~ControllerServerImpl() override { Shutdown(absl::ZeroDuration()); }

  absl::Status Start(const ControllerOptions& options) {
    SchedulerOptions scheduler_options;
    scheduler_options.queue.max_requests = options.max_queued_requests;
    scheduler_options.queue.max_tokens = options.max_queued_tokens;
    scheduler_options.failover_timeout = options.failover_timeout;
    scheduler_options.worker.controller_id = instance_id_;
    scheduler_options.worker.step_timeout = options.step_timeout;
    scheduler_options.worker.slow_reader_timeout = options.slow_reader_timeout;
    scheduler_options.worker.lookahead = options.lookahead;
    scheduler_options.worker.prefill_chunk_tokens = options.prefill_chunk_tokens;
    scheduler_options.worker.max_step_time = options.max_step_time;
    scheduler_options.worker.audit_rate = options.audit_rate;
    ExpectedModel expected{model_.revision, model_.layer_groups->count(), model_.policies.has_reference};
    if (model_.policies.calibrated != nullptr) {
      expected.backend_loss = model_.policies.calibrated->backend_loss;
    }
    scheduler_ = std::make_unique<Scheduler>(scheduler_options, expected, *model_.tokenizer, *model_.layer_groups,
                                             [this](bool ready) { SetReady(ready); });
    access_ = std::make_unique<AccessControl>();
    if (!options.tokens_file.empty()) {
      FQ_ASSIGN_OR_RETURN(access_, AccessControl::Open(options.tokens_file, options.listen.reload_interval));
    } else if (!options.listen.address.empty() && !transport::IsLoopback(options.listen.address) &&
               options.listen.tls.ca.empty()) {
      spdlog::warn("whoever reaches {} may use it; --tokens or --tls-client-ca says who may", options.listen.address);
    }
    metrics_ = Metrics::Silent();
    if (!options.metrics_listen.empty()) {
      FQ_ASSIGN_OR_RETURN(metrics_, Metrics::Serve(options.metrics_listen, model_.name,
                                                   [scheduler = scheduler_.get()] { return scheduler->Figures(); }));
      spdlog::info("metrics on {}, port {}", options.metrics_listen, metrics_->port());
    }
    inference_ = std::make_unique<InferenceService>(model_, *scheduler_, *access_, *metrics_);
    info_ = std::make_unique<ModelService>(model_, *scheduler_, instance_id_);
    FQ_RETURN_IF_ERROR(StartServer(options));
    directory_ = std::make_unique<ExecutorDirectory>(
        options.executors, options.resolve, options.resolve_interval,
        [scheduler = scheduler_.get()](const std::vector<ExecutorTarget>& targets, const absl::Status& lookup) {
          scheduler->SetExecutors(targets, lookup);
        });
    {
      const std::lock_guard lock(health_mutex_);
      if (!options.listen.health_address.empty()) {
        FQ_ASSIGN_OR_RETURN(health_port_, transport::HealthPort::Open(options.listen.health_address));
      }
      health_ = server_->GetHealthCheckService();
      SetHealth("liveness", true);
      PublishReadiness();
    }
    if (port_ > 0) {
      spdlog::info("serving {} on {}, port {}, {}", model_.name, options.listen.address, port_,
                   options.listen.tls.empty() ? "without TLS" : "with TLS");
    }
    return absl::OkStatus();
  }

  int port() const override { return port_; }
  int metrics_port() const override { return metrics_->port(); }

  std::shared_ptr<grpc::Channel> InProcessChannel() override {
    grpc::ChannelArguments args;
    args.SetMaxReceiveMessageSize(kMaxSendBytes);
    return server_->InProcessChannel(args);
  }

  absl::Status WaitReady(absl::Duration timeout) override { return scheduler_->WaitReady(timeout); }

  void Shutdown(absl::Duration grace) override {
    const std::lock_guard lock(shutdown_mutex_);
    if (std::exchange(shut_down_, true)) {
      return;
    }
    if (scheduler_ != nullptr) {
      scheduler_->Drain(absl::Now() + grace);
      if (directory_ != nullptr) {
        directory_->Stop();
      }
      scheduler_->Stop();
    }
    {
      const std::lock_guard health_lock(health_mutex_);
      health_ = nullptr;
    }
    if (server_ != nullptr) {
      // Every answer has been ended; what is left are the last messages on their way.
      server_->Shutdown(absl::ToChronoTime(absl::Now() + kLastWordsTime));
      server_->Wait();
    }
  }

 private:
  absl::Status StartServer(const ControllerOptions& options) {
    grpc::EnableDefaultHealthCheckService(true);
    grpc::ServerBuilder builder;
    if (options.reflection) {
      grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    } else {
      builder.SetOption(std::make_unique<WithoutReflection>());
    }
    builder.SetMaxReceiveMessageSize(kMaxReceiveBytes);
    builder.SetMaxSendMessageSize(kMaxSendBytes);
    // Two servers on one port would share its connections at random; a taken port must be an error.
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
    // Finds clients that vanished, so that nothing is computed for them.
    transport::AddKeepalive(builder);
    const std::string& address = options.listen.address;
    if (!address.empty()) {
      FQ_ASSIGN_OR_RETURN(const auto credentials,
                          transport::MakeServerCredentials(options.listen, access_->PortCheck()));
      builder.AddListeningPort(address, credentials, &port_);
    }
    builder.RegisterService(inference_.get());
    builder.RegisterService(info_.get());
    server_ = builder.BuildAndStart();
    if (server_ == nullptr || (!address.empty() && port_ == 0)) {
      return transport::CannotListenError(address);
    }
    return absl::OkStatus();
  }

  void SetReady(bool ready) {
    const std::lock_guard lock(health_mutex_);
    ready_ = ready;
    PublishReadiness();
  }

  // With health_mutex_ held. Names are set one by one: setting all would take "liveness" down with them.
  void PublishReadiness() {
    if (health_ == nullptr) {
      return;
    }
    for (const char* name : kReadinessNames) {
      SetHealth(name, ready_);
    }
  }

  void SetHealth(const char* name, bool serving) {
    health_->SetServingStatus(name, serving);
    if (health_port_ != nullptr) {
      health_port_->Set(name, serving);
    }
  }

  const ModelPackage model_;
  const std::string instance_id_ = RandomInstanceId();
  std::mutex health_mutex_;
  grpc::HealthCheckServiceInterface* health_ = nullptr;
  std::unique_ptr<transport::HealthPort> health_port_;  // null if there is none
  bool ready_ = false;
  std::mutex shutdown_mutex_;
  bool shut_down_ = false;
  int port_ = 0;
  std::unique_ptr<Scheduler> scheduler_;
  std::unique_ptr<ExecutorDirectory> directory_;  // calls the scheduler until it goes
  std::unique_ptr<AccessControl> access_;
  std::unique_ptr<Metrics> metrics_;  // read the scheduler until they go, so they go before it
  std::unique_ptr<InferenceService> inference_;
  std::unique_ptr<ModelService> info_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ControllerServer>> ControllerServer::Create(const ControllerOptions& options) {
  FQ_RETURN_IF_ERROR(CheckOptions(options));
  FQ_ASSIGN_OR_RETURN(ModelPackage model, LoadModelPackage(options.model_dir, options.lookahead));
  auto server = std::make_unique<ControllerServerImpl>(std::move(model));
  FQ_RETURN_IF_ERROR(server->Start(options));
  return server;
}

}  // namespace flexquant::controller
