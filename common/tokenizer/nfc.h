#ifndef FLEXQUANT_COMMON_TOKENIZER_NFC_H_
#define FLEXQUANT_COMMON_TOKENIZER_NFC_H_

#include <string>

#include "absl/strings/string_view.h"

namespace flexquant {

// False if `text` (valid UTF-8) may change under ToNfc; true only if it surely does not.
bool IsSurelyNfc(absl::string_view text);

// Unicode's canonical composition of valid UTF-8.
std::string ToNfc(absl::string_view text);

}  // namespace flexquant

#endif  // FLEXQUANT_COMMON_TOKENIZER_NFC_H_
