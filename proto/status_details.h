#ifndef FLEXQUANT_PROTO_STATUS_DETAILS_H_
#define FLEXQUANT_PROTO_STATUS_DETAILS_H_

// What the google.rpc details of a status that came over gRPC (FromGrpcStatus) say, for those who tell it on.

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace flexquant {

// Path of the first field that a BadRequest names; empty if there is none.
std::string ViolatedField(const absl::Status& status);

// The fields that a BadRequest names, with what is wrong with each.
struct InvalidField {
  std::string field;
  std::string description;
};
std::vector<InvalidField> InvalidFields(const absl::Status& status);

// The delay of a RetryInfo.
std::optional<absl::Duration> RetryDelay(const absl::Status& status);

}  // namespace flexquant

#endif  // FLEXQUANT_PROTO_STATUS_DETAILS_H_
