#include "controller/access_control.h"

#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "common/status_macros.h"
#include "proto/grpc_status.h"

namespace flexquant::controller {
namespace {

constexpr absl::string_view kReason = "INVALID_TOKEN";

}  // namespace

AccessControl::AccessControl() : anyone_(std::make_shared<const Tenant>()) {}

absl::StatusOr<std::unique_ptr<AccessControl>> AccessControl::Open(const std::string& tokens_file,
                                                                   absl::Duration interval) {
  auto access = std::make_unique<AccessControl>();
  FQ_ASSIGN_OR_RETURN(access->tokens_,
                      transport::Reloaded<TokenTable>::Open({tokens_file}, interval,
                                                            [tokens_file](const std::vector<std::string>& contents) {
                                                              return TokenTable::Parse(contents[0], tokens_file);
                                                            }));
  return access;
}

absl::StatusOr<std::shared_ptr<const Tenant>> AccessControl::Identify(absl::string_view authorization) const {
  if (tokens_ == nullptr) {
    return anyone_;
  }
  const absl::string_view token = transport::TokenOf(authorization);
  if (token.empty()) {
    return WithErrorInfo(absl::UnauthenticatedError("this server needs a token: send the metadata \"authorization: "
                                                    "Bearer TOKEN\" (flexquant: --token-file FILE or the "
                                                    "environment's FLEXQUANT_TOKEN)"),
                         kReason);
  }
  absl::StatusOr<std::shared_ptr<const Tenant>> tenant = tokens_->Current()->Find(token, absl::Now());
  return tenant.ok() ? std::move(tenant) : WithErrorInfo(tenant.status(), kReason);
}

transport::AccessCheck AccessControl::PortCheck() const {
  if (tokens_ == nullptr) {
    return nullptr;
  }
  return [this](const transport::Caller& caller) { return Identify(caller.authorization).status(); };
}

}  // namespace flexquant::controller
