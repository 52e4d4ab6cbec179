#include "transport/bearer_token.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"

namespace flexquant::transport {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(BearerTokenTest, DigestIsSha256) {
  // FIPS 180-2, appendix B.1.
  const std::string abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
  EXPECT_EQ(ToHex(Sha256("abc")), abc);
  const auto digest = DigestFromHex(abc);
  ASSERT_TRUE(digest.ok()) << digest.status();
  EXPECT_TRUE(SameDigest(*digest, Sha256("abc")));
  EXPECT_FALSE(SameDigest(*digest, Sha256("abd")));
  EXPECT_FALSE(DigestFromHex(abc.substr(1)).ok());
  EXPECT_FALSE(DigestFromHex(absl::StrCat("g", abc.substr(1))).ok());
}

TEST(BearerTokenTest, NewTokensAreLongAndDiffer) {
  const auto first = NewToken();
  const auto second = NewToken();
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_NE(*first, *second);
  EXPECT_EQ(first->size(), 3U + 43U);  // prefix and 256 bits in base 64
  EXPECT_TRUE(CheckToken(*first).ok());
}

TEST(BearerTokenTest, TokensThatCannotBeSentAreNotShown) {
  const std::string secret = "not so secret\n";
  for (const std::string& token : {std::string(), secret, std::string(kMaxTokenBytes + 1, 'x'), std::string("t\x80")}) {
    const absl::Status status = CheckToken(token);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), Not(HasSubstr("secret")));
  }
}

TEST(BearerTokenTest, MetadataCarriesTheToken) {
  EXPECT_EQ(AuthorizationFor("abc"), "Bearer abc");
  EXPECT_EQ(TokenOf("Bearer abc"), "abc");
  EXPECT_EQ(TokenOf("bearer abc"), "abc");
  EXPECT_EQ(TokenOf("Basic abc"), "");
  EXPECT_EQ(TokenOf("Bearer"), "");
  EXPECT_EQ(TokenOf(""), "");
  EXPECT_EQ(TokenOf("Bearer " + std::string(kMaxTokenBytes + 1, 'x')), "");
}

}  // namespace
}  // namespace flexquant::transport
