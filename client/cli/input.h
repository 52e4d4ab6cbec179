#ifndef FLEXQUANT_CLIENT_CLI_INPUT_H_
#define FLEXQUANT_CLIENT_CLI_INPUT_H_

#include <optional>
#include <string>

#include "absl/status/statusor.h"

namespace flexquant::cli {

// Standard input, read so that Ctrl-C is noticed. Not thread-safe.
class Input {
 public:
  // The next line without its newline; nullopt at the end. CANCELLED when asked to stop.
  absl::StatusOr<std::optional<std::string>> ReadLine();
  // Everything that is left. RESOURCE_EXHAUSTED beyond `max_bytes`; CANCELLED when asked to stop.
  absl::StatusOr<std::string> ReadAll(size_t max_bytes);

 private:
  // Adds what is there to buffer_; false at the end.
  absl::StatusOr<bool> Fill();

  std::string buffer_;
};

}  // namespace flexquant::cli

#endif  // FLEXQUANT_CLIENT_CLI_INPUT_H_
