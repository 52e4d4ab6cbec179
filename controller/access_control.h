#ifndef FLEXQUANT_CONTROLLER_ACCESS_CONTROL_H_
#define FLEXQUANT_CONTROLLER_ACCESS_CONTROL_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "controller/tenant.h"
#include "controller/tenant_limits.h"
#include "controller/token_table.h"
#include "transport/reloaded_files.h"
#include "transport/server_credentials.h"

namespace flexquant::controller {

// Who may use the public services and how much. Thread-safe.
class AccessControl {
 public:
  // Everybody may, without limits.
  AccessControl();
  // Only who has a token of the file, which is read again when it changes. Errors of TokenTable::Parse and of reading.
  static absl::StatusOr<std::unique_ptr<AccessControl>> Open(const std::string& tokens_file, absl::Duration interval);

  bool needs_token() const { return tokens_ != nullptr; }
  // Whose call this is, by its metadata "authorization" (empty = none). UNAUTHENTICATED without a valid token; the
  // error says what to send and never what was sent.
  absl::StatusOr<std::shared_ptr<const Tenant>> Identify(absl::string_view authorization) const;
  // For the port: refuses what Identify refuses. This must outlive the port.
  transport::AccessCheck PortCheck() const;

  TenantLimits& limits() { return limits_; }

 private:
  const std::shared_ptr<const Tenant> anyone_;
  std::shared_ptr<transport::Reloaded<TokenTable>> tokens_;  // null = everybody may
  TenantLimits limits_;
};

}  // namespace flexquant::controller

#endif  // FLEXQUANT_CONTROLLER_ACCESS_CONTROL_H_
