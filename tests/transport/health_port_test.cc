// A probe without TLS gets health here and nothing else.

#include "transport/health_port.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <future>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/support/byte_buffer.h"

namespace flexquant::transport {
namespace {

using ::testing::HasSubstr;

struct Answer {
  grpc::Status status;
  std::string bytes;
};

// HealthCheckRequest { string service = 1; }; the response's only field is the state: 1 = SERVING, 2 = NOT_SERVING.
Answer Call(int port, const std::string& method, const std::string& service) {
  grpc::GenericStub stub(grpc::CreateChannel(absl::StrCat("127.0.0.1:", port), grpc::InsecureChannelCredentials()));
  std::string bytes = "\x0A";
  bytes.push_back(static_cast<char>(service.size()));
  const grpc::Slice slice(bytes + service);
  grpc::ByteBuffer request(&slice, 1);
  grpc::ByteBuffer response;
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
  Answer answer;
  std::promise<void> done;
  stub.UnaryCall(&context, method, grpc::StubOptions(), &request, &response, [&](grpc::Status status) {
    answer.status = std::move(status);
    done.set_value();
  });
  done.get_future().wait();
  std::vector<grpc::Slice> slices;
  if (answer.status.ok() && response.Dump(&slices).ok()) {
    for (const grpc::Slice& one : slices) {
      answer.bytes.append(reinterpret_cast<const char*>(one.begin()), one.size());
    }
  }
  return answer;
}

TEST(HealthPortTest, SaysWhatItWasTold) {
  const auto port = HealthPort::Open("127.0.0.1:0");
  ASSERT_TRUE(port.ok()) << port.status();
  const auto check = [&](const std::string& service) {
    return Call((*port)->port(), "/grpc.health.v1.Health/Check", service);
  };
  EXPECT_EQ(check("").bytes, "\x08\x02");
  EXPECT_EQ(check("liveness").status.error_code(), grpc::StatusCode::NOT_FOUND);
  (*port)->Set("liveness", true);
  (*port)->Set("a.Service", false);
  EXPECT_EQ(check("liveness").bytes, "\x08\x01");
  EXPECT_EQ(check("a.Service").bytes, "\x08\x02");
  (*port)->Set("a.Service", true);
  EXPECT_EQ(check("a.Service").bytes, "\x08\x01");
}

TEST(HealthPortTest, OffersNothingElse) {
  const auto port = HealthPort::Open("127.0.0.1:0");
  ASSERT_TRUE(port.ok()) << port.status();
  for (const char* method :
       {"/flexquant.v1.InferenceService/Tokenize", "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"}) {
    EXPECT_EQ(Call((*port)->port(), method, "x").status.error_code(), grpc::StatusCode::UNIMPLEMENTED) << method;
  }
}

TEST(HealthPortTest, BadAndTakenAddressesAreNamed) {
  const auto port = HealthPort::Open("127.0.0.1:0");
  ASSERT_TRUE(port.ok()) << port.status();
  const std::string taken = absl::StrCat("127.0.0.1:", (*port)->port());
  const auto second = HealthPort::Open(taken);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr(taken));
  EXPECT_EQ(HealthPort::Open("127.0.0.1").status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace flexquant::transport
