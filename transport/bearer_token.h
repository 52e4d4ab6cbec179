#ifndef FLEXQUANT_TRANSPORT_BEARER_TOKEN_H_
#define FLEXQUANT_TRANSPORT_BEARER_TOKEN_H_

#include <array>
#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace flexquant::transport {

// Metadata that carries a token: "authorization: Bearer TOKEN".
inline constexpr char kAuthorizationKey[] = "authorization";
inline constexpr size_t kMaxTokenBytes = 512;

using Sha256Digest = std::array<uint8_t, 32>;

Sha256Digest Sha256(absl::string_view data);
std::string ToHex(const Sha256Digest& digest);
// INVALID_ARGUMENT unless `hex` is 64 hexadecimal digits.
absl::StatusOr<Sha256Digest> DigestFromHex(absl::string_view hex);
// Takes the same time whatever the digests are.
bool SameDigest(const Sha256Digest& a, const Sha256Digest& b);

// A token of 256 random bits. INTERNAL if the system has no randomness.
absl::StatusOr<std::string> NewToken();

// INVALID_ARGUMENT unless `token` may be sent: 1 to kMaxTokenBytes characters of printable ASCII without blanks. The
// error does not show it.
absl::Status CheckToken(absl::string_view token);

// The value of the metadata for a token.
std::string AuthorizationFor(absl::string_view token);
// The token of a value; empty if the value is not of that form.
absl::string_view TokenOf(absl::string_view authorization);

}  // namespace flexquant::transport

#endif  // FLEXQUANT_TRANSPORT_BEARER_TOKEN_H_
