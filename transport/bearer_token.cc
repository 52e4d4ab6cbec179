#include "transport/bearer_token.h"

#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <openssl/sha.h>

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace flexquant::transport {
namespace {

constexpr absl::string_view kScheme = "Bearer ";
constexpr int kTokenRandomBytes = 32;
// Lets scanners for leaked secrets recognise a token.
constexpr absl::string_view kTokenPrefix = "fq_";

}  // namespace

Sha256Digest Sha256(absl::string_view data) {
  Sha256Digest digest;
  SHA256(reinterpret_cast<const unsigned char*>(data.data()), data.size(), digest.data());
  return digest;
}

std::string ToHex(const Sha256Digest& digest) {
  return absl::BytesToHexString({reinterpret_cast<const char*>(digest.data()), digest.size()});
}

absl::StatusOr<Sha256Digest> DigestFromHex(absl::string_view hex) {
  Sha256Digest digest;
  if (hex.size() != 2 * digest.size() || !std::all_of(hex.begin(), hex.end(), absl::ascii_isxdigit)) {
    return absl::InvalidArgumentError(absl::StrCat("a SHA-256 digest has ", 2 * digest.size(),
                                                   " hexadecimal digits, not ", hex.size(), " characters"));
  }
  const std::string bytes = absl::HexStringToBytes(hex);
  std::copy(bytes.begin(), bytes.end(), digest.begin());
  return digest;
}

bool SameDigest(const Sha256Digest& a, const Sha256Digest& b) {
  return CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

absl::StatusOr<std::string> NewToken() {
  std::array<unsigned char, kTokenRandomBytes> bytes = {};
  if (RAND_bytes(bytes.data(), kTokenRandomBytes) != 1) {
    return absl::InternalError("the system gives no random bytes");
  }
  std::string text;
  absl::WebSafeBase64Escape({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, &text);
  return absl::StrCat(kTokenPrefix, text);
}

absl::Status CheckToken(absl::string_view token) {
  if (token.empty() || token.size() > kMaxTokenBytes || !std::all_of(token.begin(), token.end(), absl::ascii_isgraph)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the token is not 1 to ", kMaxTokenBytes,
                     " characters of printable ASCII without blanks; `flexquant token new` "
                     "makes tokens"));
  }
  return absl::OkStatus();
}

std::string AuthorizationFor(absl::string_view token) { return absl::StrCat(kScheme, token); }

absl::string_view TokenOf(absl::string_view authorization) {
  if (!absl::StartsWithIgnoreCase(authorization, kScheme)) {
    return {};
  }
  const absl::string_view token = authorization.substr(kScheme.size());
  return token.size() <= kMaxTokenBytes ? token : absl::string_view();
}

}  // namespace flexquant::transport
