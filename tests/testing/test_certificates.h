#ifndef FLEXQUANT_TESTS_TESTING_TEST_CERTIFICATES_H_
#define FLEXQUANT_TESTS_TESTING_TEST_CERTIFICATES_H_

#include <memory>
#include <string>

#include "absl/time/time.h"

namespace flexquant::testing {

// A certificate (with no chain) and its key, as PEM.
struct TestIdentity {
  std::string certificate_pem;
  std::string key_pem;
};

struct IssueOptions {
  std::string common_name = "test";
  // As OpenSSL writes them: "DNS:a,IP:127.0.0.1"; empty = none.
  std::string alternative_names = {};
  absl::Duration valid_for = absl::Hours(1);  // negative: expired
};

// A certificate authority with a fresh P-256 key.
class TestAuthority {
 public:
  TestAuthority();
  ~TestAuthority();

  const std::string& pem() const { return pem_; }
  TestIdentity Issue(const IssueOptions& options) const;
  // For servers on 127.0.0.1.
  TestIdentity IssueServer() const;

 private:
  struct Parts;

  std::unique_ptr<Parts> parts_;
  std::string pem_;
};

// `key_pem` with a passphrase.
std::string EncryptedKey(const std::string& key_pem);

// A folder for files, removed at the end.
class TestFolder {
 public:
  TestFolder();
  ~TestFolder();

  // Path of a file in the folder.
  std::string Path(const std::string& name) const { return path_ + "/" + name; }
  // Writes it and returns its path.
  std::string Write(const std::string& name, const std::string& contents) const;
  void Write(const TestIdentity& identity, const std::string& name) const;  // NAME.crt and NAME.key

 private:
  std::string path_;
};

}  // namespace flexquant::testing

#endif  // FLEXQUANT_TESTS_TESTING_TEST_CERTIFICATES_H_
