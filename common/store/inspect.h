#ifndef FLEXQUANT_COMMON_STORE_INSPECT_H_
#define FLEXQUANT_COMMON_STORE_INSPECT_H_

#include <string>

#include "absl/status/statusor.h"
#include "common/store/model_store.h"

namespace flexquant {

// What `flexquant inspect` prints of a model package. With `verify_checksum` the whole weights file is read. Errors of
// ModelStore::Open.
absl::StatusOr<std::string> InspectJson(const std::string& folder, const StoreOptions& options = {});
absl::StatusOr<std::string> InspectText(const std::string& folder, const StoreOptions& options = {});

}  // namespace flexquant

#endif  // FLEXQUANT_COMMON_STORE_INSPECT_H_
