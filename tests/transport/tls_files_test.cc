#include "transport/tls_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "tests/testing/test_certificates.h"

namespace flexquant::transport {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class TlsFilesTest : public ::testing::Test {
 protected:
  TlsFilesTest() {
    folder_.Write(identity_, "server");
    folder_.Write("ca.crt", authority_.pem());
  }

  absl::StatusOr<std::shared_ptr<Reloaded<TlsMaterial>>> Open() const {
    return OpenTlsFiles({folder_.Path("server.crt"), folder_.Path("server.key"), folder_.Path("ca.crt")},
                        absl::ZeroDuration());
  }

  void ExpectError(const std::string& file, const std::string& problem) const {
    const absl::Status status = Open().status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr(folder_.Path(file)));
    EXPECT_THAT(std::string(status.message()), HasSubstr(problem));
    EXPECT_THAT(std::string(status.message()), Not(HasSubstr(identity_.key_pem.substr(30, 40))));
  }

  testing::TestFolder folder_;
  testing::TestAuthority authority_;
  testing::TestIdentity identity_ = authority_.IssueServer();
};

TEST_F(TlsFilesTest, ReadsWhatIsGiven) {
  const auto files = Open();
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_EQ((*files)->Current()->certificate_pem, identity_.certificate_pem);
  EXPECT_EQ((*files)->Current()->key_pem, identity_.key_pem);
  EXPECT_EQ((*files)->Current()->ca_pem, authority_.pem());
  const auto ca_only = OpenTlsFiles({"", "", folder_.Path("ca.crt")}, absl::ZeroDuration());
  ASSERT_TRUE(ca_only.ok()) << ca_only.status();
  EXPECT_EQ((*ca_only)->Current()->ca_pem, authority_.pem());
  EXPECT_EQ((*ca_only)->Current()->key_pem, "");
}

TEST_F(TlsFilesTest, HalfAPairIsNoPair) {
  EXPECT_EQ(OpenTlsFiles({folder_.Path("server.crt"), "", ""}, absl::ZeroDuration()).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(OpenTlsFiles({"", folder_.Path("server.key"), ""}, absl::ZeroDuration()).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(TlsFilesTest, BadFilesAreNamed) {
  folder_.Write("server.crt", "nonsense");
  ExpectError("server.crt", "BEGIN CERTIFICATE");
  std::string damaged = identity_.certificate_pem;
  damaged.replace(damaged.size() / 2, 4, "!!!!");
  folder_.Write("server.crt", damaged);
  ExpectError("server.crt", "BEGIN CERTIFICATE");
  // A good one does not hide a bad one behind it.
  folder_.Write("server.crt", identity_.certificate_pem + damaged);
  ExpectError("server.crt", "BEGIN CERTIFICATE");
  folder_.Write("server.crt", identity_.certificate_pem);
  folder_.Write("server.key", testing::EncryptedKey(identity_.key_pem));
  ExpectError("server.key", "passphrase");
  folder_.Write("server.key", authority_.IssueServer().key_pem);
  ExpectError("server.key", "not the key");
  folder_.Write("server.key", identity_.key_pem);
  folder_.Write("ca.crt", "");
  ExpectError("ca.crt", "BEGIN CERTIFICATE");
}

TEST_F(TlsFilesTest, AnExpiredCertificateIsRefused) {
  folder_.Write(authority_.Issue({.valid_for = -absl::Seconds(10)}), "server");
  ExpectError("server.crt", "expired on 20");
}

TEST_F(TlsFilesTest, HalfReplacedPairsWaitForTheOtherHalf) {
  const auto files = Open();
  ASSERT_TRUE(files.ok()) << files.status();
  const testing::TestIdentity next = authority_.IssueServer();
  folder_.Write("server.crt", next.certificate_pem);
  EXPECT_EQ((*files)->Current()->certificate_pem, identity_.certificate_pem);
  EXPECT_EQ((*files)->Current()->key_pem, identity_.key_pem);
  folder_.Write("server.key", next.key_pem);
  EXPECT_EQ((*files)->Current()->certificate_pem, next.certificate_pem);
  EXPECT_EQ((*files)->Current()->key_pem, next.key_pem);
}

}  // namespace
}  // namespace flexquant::transport
