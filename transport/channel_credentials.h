#ifndef FLEXQUANT_TRANSPORT_CHANNEL_CREDENTIALS_H_
#define FLEXQUANT_TRANSPORT_CHANNEL_CREDENTIALS_H_

#include <memory>
#include <mutex>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "grpcpp/security/credentials.h"
#include "grpcpp/support/channel_arguments.h"
#include "transport/tls_files.h"

namespace flexquant::transport {

// How a client connects.
struct ConnectOptions {
  bool tls = false;         // implied by any of the rest
  TlsFiles files;           // `ca`: who may have signed the server's certificate; empty = the system's authorities
  std::string server_name;  // expected in the server's certificate; empty = the host of the address
  absl::Duration reload_interval = kReloadInterval;

  bool encrypted() const { return tls || !files.empty() || !server_name.empty(); }
};

// Channel credentials whose files may be replaced: channels made after that use the new ones. Thread-safe.
class ChannelCredentials {
 public:
  // Errors of OpenTlsFiles.
  static absl::StatusOr<std::shared_ptr<ChannelCredentials>> Open(const ConnectOptions& options);

  // The same object until the files change: another one means that a channel should be made anew.
  std::shared_ptr<grpc::ChannelCredentials> Current();
  // Adds what channels with these credentials need.
  void AddArguments(grpc::ChannelArguments& arguments) const;

 private:
  explicit ChannelCredentials(std::string server_name) : server_name_(std::move(server_name)) {}

  const std::string server_name_;
  std::mutex mutex_;
  std::shared_ptr<Reloaded<TlsMaterial>> tls_;  // null = nothing that changes
  std::shared_ptr<const TlsMaterial> used_;     // what credentials_ was made of
  std::shared_ptr<grpc::ChannelCredentials> credentials_;
};

}  // namespace flexquant::transport

#endif  // FLEXQUANT_TRANSPORT_CHANNEL_CREDENTIALS_H_
