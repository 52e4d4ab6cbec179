#ifndef FLEXQUANT_TESTS_SDK_TEST_SERVER_H_
#define FLEXQUANT_TESTS_SDK_TEST_SERVER_H_

#include <memory>
#include <string>

#include "tests/testing/fake_executor.h"

namespace flexquant::sdk {

struct TestServerOptions {
  bool mutual_tls = false;
  std::string token;  // of the only tenant; empty = everybody may call
};

// A controller on a port, over an executor that answers "abcde" to everything. In a translation unit of its own: the
// SDK's headers and the servers' need not fit together.
class TestServer {
 public:
  explicit TestServer(const TestServerOptions& options = {});
  ~TestServer();

  std::string address() const;
  testing::FakeExecutor& executor() { return *executor_; }
  // Of ca.crt, client.crt or client.key.
  std::string Path(const std::string& name) const;

 private:
  struct Parts;
  std::unique_ptr<testing::FakeExecutor> executor_;
  std::unique_ptr<Parts> parts_;
};

}  // namespace flexquant::sdk

#endif  // FLEXQUANT_TESTS_SDK_TEST_SERVER_H_
