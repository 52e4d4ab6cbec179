#ifndef FLEXQUANT_TRANSPORT_KEEPALIVE_H_
#define FLEXQUANT_TRANSPORT_KEEPALIVE_H_

#include "absl/time/time.h"
#include "grpcpp/server_builder.h"
#include "grpcpp/support/channel_arguments.h"

namespace flexquant::transport {

// A peer with an open call that has been silent for so long is asked whether it lives, again and again,
inline constexpr absl::Duration kPingInterval = absl::Seconds(10);
// and its connection ends if it has not answered after so long: a network that drops everything without a word is found
// within the sum of both. gRPC's own threads answer, so work does not keep a peer from it.
inline constexpr absl::Duration kPingTimeout = absl::Seconds(10);
// Pings of others that come more often than this, several in a row, end their connection.
inline constexpr absl::Duration kMinPingInterval = absl::Seconds(5);

// Pings from a channel's or a server's side.
void AddKeepalive(grpc::ChannelArguments& arguments);
void AddKeepalive(grpc::ServerBuilder& builder);

}  // namespace flexquant::transport

#endif  // FLEXQUANT_TRANSPORT_KEEPALIVE_H_
