#include "client/cpp/health.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/cpp/call_scope.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/support/byte_buffer.h"
#include "proto/grpc_status.h"

namespace flexquant::client {
namespace {

// Debian's gRPC has no generated code for grpc.health.v1; its two messages have one field each, so they are written and
// read by hand: HealthCheckRequest { string service = 1; }, HealthCheckResponse { ServingStatus status = 1; }.
constexpr char kWatchMethod[] = "/grpc.health.v1.Health/Watch";
enum ServingStatus { kUnknown = 0, kServing = 1, kNotServing = 2, kServiceUnknown = 3, kBadMessage = -1 };

grpc::ByteBuffer WatchRequest(absl::string_view service) {
  std::string bytes = "\x0A";
  bytes.push_back(static_cast<char>(service.size()));
  absl::StrAppend(&bytes, service);
  const grpc::Slice slice(bytes);
  return {&slice, 1};
}

int ReadServingStatus(const grpc::ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  if (!buffer.Dump(&slices).ok()) {
    return kBadMessage;
  }
  std::string bytes;
  for (const grpc::Slice& slice : slices) {
    bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  if (bytes.empty()) {
    return kUnknown;
  }
  const bool one_small_field = bytes.size() == 2 && bytes[0] == '\x08' && bytes[1] >= 0 && bytes[1] <= kServiceUnknown;
  return one_small_field ? bytes[1] : int{kBadMessage};
}

const char* ServingStatusName(int status) {
  switch (status) {
    case kServing:
      return "ready";
    case kNotServing:
      return "the server runs but is not ready (no executor has been reached yet, or it is stopping)";
    case kServiceUnknown:
      return "the server does not offer this service; is it a flexquant-controller?";
    default:
      return "the server does not say whether it is ready";
  }
}

// One Watch call on a queue of its own.
class HealthWatch {
 public:
  HealthWatch(grpc::GenericStub& stub, const CallOptions& options, absl::string_view service) : scope_(options) {
    // Until the deadline, a server that does not listen yet is waited for.
    scope_.context()->set_wait_for_ready(true);
    call_ = stub.PrepareCall(scope_.context(), kWatchMethod, &queue_);
    call_->StartCall(Tag());
    if (Next()) {
      call_->WriteLast(WatchRequest(service), grpc::WriteOptions(), Tag());
      Next();
    }
  }

  ~HealthWatch() {
    queue_.Shutdown();
    void* tag = nullptr;
    bool ok = false;
    while (queue_.Next(&tag, &ok)) {
    }
  }

  bool Read(int* serving_status) {
    grpc::ByteBuffer response;
    call_->Read(&response, Tag());
    if (!Next()) {
      return false;
    }
    *serving_status = ReadServingStatus(response);
    return true;
  }

  grpc::Status Finish(bool cancel) {
    if (cancel) {
      scope_.context()->TryCancel();
    }
    grpc::Status status;
    call_->Finish(&status, Tag());
    Next();
    return status;
  }

 private:
  void* Tag() { return this; }
  bool Next() {
    void* tag = nullptr;
    bool ok = false;
    return queue_.Next(&tag, &ok) && ok;
  }

  CallScope scope_;
  grpc::CompletionQueue queue_;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> call_;
};

}  // namespace

absl::Status WaitUntilServing(const std::shared_ptr<grpc::Channel>& channel, absl::string_view service,
                              const CallOptions& options) {
  grpc::GenericStub stub(channel);
  const absl::Time deadline = absl::Now() + options.timeout;
  std::string seen = "nothing answers there";
  while (true) {
    CallOptions attempt = options;
    attempt.timeout = std::max(deadline - absl::Now(), absl::ZeroDuration());
    HealthWatch watch(stub, attempt, service);
    int serving_status = kUnknown;
    while (watch.Read(&serving_status)) {
      if (serving_status == kServing) {
        watch.Finish(/*cancel=*/true);
        return absl::OkStatus();
      }
      seen = ServingStatusName(serving_status);
    }
    const grpc::Status status = watch.Finish(/*cancel=*/false);
    if (status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED) {
      return absl::DeadlineExceededError(
          absl::StrCat("not ready within ", absl::FormatDuration(options.timeout), ": ", seen));
    }
    if (status.error_code() != grpc::StatusCode::UNAVAILABLE) {
      return status.ok() ? absl::InternalError("the server ended its health watch") : FromGrpcStatus(status);
    }
    seen = absl::StrCat("the connection was lost (", status.error_message(), ")");
  }
}

}  // namespace flexquant::client
