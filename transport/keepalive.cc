#include "transport/keepalive.h"

#include <grpc/grpc.h>

namespace flexquant::transport {
namespace {

int Milliseconds(absl::Duration duration) { return static_cast<int>(absl::ToInt64Milliseconds(duration)); }

// `set(name, value)` gets what both sides have in common.
template <typename Set>
void AddPings(Set set) {
  set(GRPC_ARG_KEEPALIVE_TIME_MS, Milliseconds(kPingInterval));
  set(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, Milliseconds(kPingTimeout));
  // gRPC would stop after two pings without data in between, and a stream that waits has none.
  set(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
}

}  // namespace

void AddKeepalive(grpc::ChannelArguments& arguments) {
  AddPings([&](const char* name, int value) { arguments.SetInt(name, value); });
}

void AddKeepalive(grpc::ServerBuilder& builder) {
  AddPings([&](const char* name, int value) { builder.AddChannelArgument(name, value); });
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, Milliseconds(kMinPingInterval));
  // Clients may ask without a call, too.
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
}

}  // namespace flexquant::transport
