#ifndef FLEXQUANT_CLIENT_CLI_TEXT_WINDOWS_H_
#define FLEXQUANT_CLIENT_CLI_TEXT_WINDOWS_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/store/model_store.h"

namespace flexquant::cli {

struct TextWindowOptions {
  std::string text;       // file of UTF-8 text
  size_t window = 512;    // tokens read together
  size_t max_tokens = 0;  // only so many of the text; 0 = all
};

// The text cut into windows without overlap, each begun with BOS where the model's texts are; a last one of one token
// is left out. INVALID_ARGUMENT if a window does not fit the context or there is none.
absl::StatusOr<std::vector<std::vector<uint32_t>>> MakeWindows(const TextWindowOptions& options,
                                                               const ModelStore& store);

}  // namespace flexquant::cli

#endif  // FLEXQUANT_CLIENT_CLI_TEXT_WINDOWS_H_
