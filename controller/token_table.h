#ifndef FLEXQUANT_CONTROLLER_TOKEN_TABLE_H_
#define FLEXQUANT_CONTROLLER_TOKEN_TABLE_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "controller/tenant.h"
#include "transport/bearer_token.h"

namespace flexquant::controller {

// Which token is whose. Knows digests, never tokens. Immutable.
class TokenTable {
 public:
  // Reads the JSON text of a tokens file (docs/security.md); `path` is for errors, which are INVALID_ARGUMENT and name
  // the entry and the field.
  static absl::StatusOr<TokenTable> Parse(absl::string_view text, const std::string& path);

  // The tenant of a token; UNAUTHENTICATED if it is unknown or has expired. Neither errors nor the time taken tell
  // anything about other tokens.
  absl::StatusOr<std::shared_ptr<const Tenant>> Find(absl::string_view token, absl::Time now) const;

 private:
  struct Entry {
    transport::Sha256Digest digest = {};
    std::shared_ptr<const Tenant> tenant;
    absl::Time expires = absl::InfiniteFuture();
  };

  std::vector<Entry> entries_;
};

}  // namespace flexquant::controller

#endif  // FLEXQUANT_CONTROLLER_TOKEN_TABLE_H_
