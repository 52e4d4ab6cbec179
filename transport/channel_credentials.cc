#include "transport/channel_credentials.h"

#include <utility>

#include "common/status_macros.h"

namespace flexquant::transport {

absl::StatusOr<std::shared_ptr<ChannelCredentials>> ChannelCredentials::Open(const ConnectOptions& options) {
  std::shared_ptr<ChannelCredentials> result(new ChannelCredentials(options.server_name));
  if (!options.files.empty()) {
    FQ_ASSIGN_OR_RETURN(result->tls_, OpenTlsFiles(options.files, options.reload_interval));
  } else if (options.encrypted()) {
    result->credentials_ = grpc::SslCredentials(grpc::SslCredentialsOptions());
  } else {
    result->credentials_ = grpc::InsecureChannelCredentials();
  }
  return result;
}

std::shared_ptr<grpc::ChannelCredentials> ChannelCredentials::Current() {
  const std::lock_guard lock(mutex_);
  if (tls_ == nullptr) {
    return credentials_;
  }
  std::shared_ptr<const TlsMaterial> current = tls_->Current();
  if (current != used_) {
    credentials_ = grpc::SslCredentials({current->ca_pem, current->key_pem, current->certificate_pem});
    used_ = std::move(current);
  }
  return credentials_;
}

void ChannelCredentials::AddArguments(grpc::ChannelArguments& arguments) const {
  if (!server_name_.empty()) {
    arguments.SetSslTargetNameOverride(server_name_);
  }
}

}  // namespace flexquant::transport
