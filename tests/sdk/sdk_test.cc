// The C++ SDK's library against a controller in this process: a program that has generated code of flexquant.v1 of its
// own, linked with protobuf's full runtime. Were the library's registered too, protobuf would end the process at once.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "flexquant/client.h"
#include "flexquant/v1/inference.grpc.pb.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"
#include "tests/sdk/test_server.h"

namespace flexquant::sdk {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kToken[] = "blue-token-1234567890";

Client ConnectTo(const std::string& address, ConnectOptions options = {}) {
  options.addresses = {address};
  return Client::Connect(options).value();
}

GenerateRequest Saying(const std::string& text) {
  GenerateRequest request;
  request.prompt = text;
  return request;
}

CallOptions With(const Cancellation& cancellation) {
  CallOptions options;
  options.cancellation = cancellation;
  return options;
}

class SdkTest : public ::testing::Test {
 protected:
  TestServer server_;
  Client client_ = ConnectTo(server_.address());
};

TEST_F(SdkTest, WholeAnswer) {
  ASSERT_TRUE(client_.WaitReady().ok());
  GenerateRequest request = Saying("hi");
  request.token_info = true;
  request.top_logprobs = 2;
  request.precision.policy = FixedBits{4};
  request.sampling.seed = 7;
  request.batch_mode = BatchMode::kIsolated;
  const Answer answer = client_.Generate(request).value();
  EXPECT_EQ(answer.text, "abcde");
  ASSERT_EQ(answer.tokens.size(), 6U);
  EXPECT_EQ(answer.token_ids[0], 'a');
  EXPECT_EQ(answer.tokens[1].id, 'b');
  EXPECT_DOUBLE_EQ(answer.tokens[1].bits, 4);
  EXPECT_DOUBLE_EQ(answer.tokens[1].entropy_nats, 0.5);
  EXPECT_EQ(answer.started.prompt_tokens, 3U);
  EXPECT_EQ(answer.started.sampling.seed, 7U);
  EXPECT_EQ(answer.started.batch_mode, BatchMode::kIsolated);
  EXPECT_EQ(std::get<FixedBits>(answer.started.precision.policy).bits, 4U);
  EXPECT_EQ(answer.finished.reason, FinishReason::kStop);
  EXPECT_EQ(answer.finished.stop_cause, "eos");
  EXPECT_EQ(answer.finished.usage.generated_tokens, 6U);
  EXPECT_GT(answer.finished.usage.time_to_first_token.count(), 0);
  EXPECT_EQ(answer.finished.precision.policy, "fixed");
  EXPECT_EQ(answer.finished.precision.calibration, Calibration::kUncalibrated);
  EXPECT_LT(answer.finished.precision.weight_bytes_read, answer.finished.precision.weight_bytes_top);
}

TEST_F(SdkTest, StreamIsARange) {
  std::vector<size_t> kinds;
  std::string text;
  AnswerStream stream = client_.Stream(Saying("hi"));
  for (const Event& event : stream) {
    kinds.push_back(event.index());
    if (const auto* delta = std::get_if<Delta>(&event)) {
      text += delta->text;
      EXPECT_TRUE(delta->tokens.empty()) << "nobody asked for them";
    }
  }
  EXPECT_TRUE(stream.status().ok());
  EXPECT_EQ(text, "abcde");
  ASSERT_GE(kinds.size(), 3U);
  EXPECT_EQ(kinds.front(), 0U);
  EXPECT_EQ(kinds.back(), 2U);
  EXPECT_FALSE(stream.Next().has_value());
}

TEST_F(SdkTest, FunctionEndsTheAnswer) {
  int calls = 0;
  const Status status = client_.Generate(Saying("hi"), [&](const Event&) { return ++calls < 2; });
  EXPECT_EQ(status.code, StatusCode::kCancelled);
  EXPECT_EQ(calls, 2);
  EXPECT_TRUE(client_.Generate(Saying("hi"), [](const Event&) { return true; }).ok());
}

TEST_F(SdkTest, CancelledFromAnotherThread) {
  server_.executor().HoldResults();
  const Cancellation cancellation;
  auto first =
      std::async(std::launch::async, [&] { return client_.Generate(Saying("a"), With(cancellation)).status(); });
  auto second =
      std::async(std::launch::async, [&] { return client_.Generate(Saying("b"), With(cancellation)).status(); });
  ASSERT_TRUE(server_.executor().WaitForSteps(1));
  Cancellation(cancellation).Cancel();
  EXPECT_EQ(first.get().code, StatusCode::kCancelled);
  EXPECT_EQ(second.get().code, StatusCode::kCancelled);
  EXPECT_EQ(client_.Generate(Saying("c"), With(cancellation)).status().code, StatusCode::kCancelled)
      << "later calls too";
  server_.executor().ResumeResults();
  EXPECT_TRUE(server_.executor().WaitUntilIdle());
}

TEST_F(SdkTest, DroppedStreamIsCancelledAndOutlivesItsClient) {
  server_.executor().HoldResults();
  {
    auto stream = std::make_unique<AnswerStream>(ConnectTo(server_.address()).Stream(Saying("hi")));
    ASSERT_TRUE(std::holds_alternative<Started>(stream->Next().value()));
    ASSERT_TRUE(server_.executor().WaitForSteps(1));
  }
  server_.executor().ResumeResults();
  EXPECT_TRUE(server_.executor().WaitUntilIdle());
}

TEST_F(SdkTest, Deadline) {
  server_.executor().HoldResults();
  CallOptions options;
  options.timeout = std::chrono::milliseconds(50);
  EXPECT_EQ(client_.Generate(Saying("hi"), options).status().code, StatusCode::kDeadlineExceeded);
}

TEST_F(SdkTest, RefusedFieldsAreNamed) {
  GenerateRequest request = Saying("hi");
  request.sampling.top_p = 2;
  const Status status = client_.Generate(request).status();
  EXPECT_EQ(status.code, StatusCode::kInvalidArgument);
  ASSERT_EQ(status.field_errors.size(), 1U);
  EXPECT_THAT(status.field_errors[0].field, HasSubstr("top_p"));
  EXPECT_THAT(status.ToString(), HasSubstr("INVALID_ARGUMENT"));
}

TEST_F(SdkTest, EveryPolicyArrives) {
  const ServerInfo info = client_.GetServerInfo().value();
  EXPECT_THAT(info.precisions, ElementsAre(3, 4, 5, 6, 8));
  ASSERT_FALSE(info.named_plans.empty());
  const std::vector<uint32_t> bits(info.layer_groups.size(), 5);
  const std::vector<decltype(Precision::policy)> policies = {FixedBits{3},         NamedPlan{info.named_plans[0].name},
                                                             LayerGroupPlan{bits}, Dynamic{0.5, 1.5, 1},
                                                             RandomLevels{9},      PositionLevels{4}};
  for (const auto& policy : policies) {
    GenerateRequest request = Saying("hi");
    request.precision.policy = policy;
    request.token_info = true;
    const auto answer = client_.Generate(request);
    ASSERT_TRUE(answer.ok()) << answer.status().ToString();
    EXPECT_EQ(answer->started.precision.policy.index(), policy.index());
    ASSERT_GT(answer->tokens.size(), 1U);
    EXPECT_EQ(answer->tokens[1].level.has_value(), policy.index() > 3) << "policies with a ladder say the level";
  }
  for (const decltype(Precision::policy)& policy :
       {decltype(Precision::policy)(MaxMeanKl{0.01}), decltype(Precision::policy)(TargetMeanBits{5})}) {
    GenerateRequest request = Saying("hi");
    request.precision.policy = policy;
    EXPECT_EQ(client_.Generate(request).status().code, StatusCode::kFailedPrecondition) << "not calibrated";
  }
  GenerateRequest bounded = Saying("hi");
  bounded.precision = {Dynamic{}, 4, 6};
  EXPECT_EQ(client_.Generate(bounded)->started.precision.max_bits, 6U);
}

TEST_F(SdkTest, TokensAndAbort) {
  EXPECT_THAT(client_.Tokenize("hi", /*add_special=*/true).value(), ElementsAre(256, 'h', 'i'));
  EXPECT_EQ(client_.Detokenize({'h', 'i'}).value(), "hi");
  EXPECT_EQ(client_.Abort("nobody's").code, StatusCode::kNotFound);
  server_.executor().HoldResults();
  GenerateRequest request;
  request.prompt = std::vector<TokenId>{'h', 'i'};
  request.request_id = "mine";
  AnswerStream stream = client_.Stream(request);
  ASSERT_TRUE(stream.Next().has_value());
  // It has started, but may still wait for its executor.
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (client_.GetServerInfo()->running_requests != 1U && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::yield();
  }
  EXPECT_EQ(client_.GetServerInfo()->running_requests, 1U);
  EXPECT_TRUE(client_.Abort("mine").ok());
  EXPECT_FALSE(stream.Next().has_value());
  EXPECT_EQ(stream.status().code, StatusCode::kCancelled);
}

TEST(SdkSecurityTest, MutualTlsAndToken) {
  TestServer server({.mutual_tls = true, .token = kToken});
  ConnectOptions options;
  options.tls = Tls{server.Path("ca.crt"), server.Path("client.crt"), server.Path("client.key"), ""};
  EXPECT_EQ(ConnectTo(server.address(), options).Generate(Saying("hi")).status().code, StatusCode::kUnauthenticated);
  options.token = kToken;
  EXPECT_EQ(ConnectTo(server.address(), options).Generate(Saying("hi"))->text, "abcde");
  options.tls->certificate_file.clear();
  options.tls->key_file.clear();
  options.retry = false;
  EXPECT_EQ(ConnectTo(server.address(), options).Generate(Saying("hi")).status().code, StatusCode::kUnavailable);
}

TEST(SdkConnectTest, WhatCannotBeUsedIsNamed) {
  const auto refused = [](const ConnectOptions& options) { return Client::Connect(options).status().ToString(); };
  EXPECT_THAT(refused({}), HasSubstr("no address"));
  ConnectOptions several;
  several.addresses = {"127.0.0.1:1", "host:1"};
  EXPECT_THAT(refused(several), HasSubstr("host:1"));
  several.addresses = {"127.0.0.1:1", "127.0.0.1:2"};
  several.tls = Tls{};
  EXPECT_THAT(refused(several), HasSubstr("name"));
  ConnectOptions readable;
  readable.addresses = {"192.0.2.1:1", "127.0.0.1:1"};
  readable.token = kToken;
  EXPECT_THAT(refused(readable), AllOf(HasSubstr("192.0.2.1:1"), HasSubstr("TLS")));
  ConnectOptions absent;
  absent.addresses = {"127.0.0.1:1"};
  absent.tls = Tls{"absent.crt", "", "", ""};
  EXPECT_THAT(refused(absent), HasSubstr("absent.crt"));
}

// Fails as it is told, on the wire. Serves one call after the other.
class FailingService final : public v1::InferenceService::Service {
 public:
  grpc::Status GenerateStream(grpc::ServerContext*, const v1::GenerateStreamRequest* request,
                              grpc::ServerWriter<v1::GenerateStreamResponse>* writer) override {
    ++calls;
    if (fail_before-- > 0) {
      return {grpc::StatusCode::UNAVAILABLE, "busy"};
    }
    v1::GenerateStreamResponse event;
    event.mutable_started()->set_request_id("id");
    event.mutable_started()->set_kl_factor(1.5);
    event.mutable_started()->set_backend_kl(0.25);
    event.mutable_started()->mutable_effective()->mutable_sampling()->set_seed(3);
    writer->Write(event);
    const auto& resumed = request->request().resume().tokens();
    if (!resumed.empty()) {
      EXPECT_EQ(request->request().request_id(), "id");
      EXPECT_EQ(request->request().sampling().seed(), 3U);
      EXPECT_DOUBLE_EQ(request->request().resume().kl_factor(), 1.5);
      EXPECT_DOUBLE_EQ(request->request().resume().backend_kl(), 0.25);
    }
    const char next = static_cast<char>('a' + resumed.size());
    event.mutable_delta()->set_text(std::string(1, next));
    event.mutable_delta()->add_token_ids(static_cast<uint32_t>(next));
    event.mutable_delta()->add_tokens()->set_id(static_cast<uint32_t>(next));
    writer->Write(event);
    if (fail_after-- > 0) {
      return {grpc::StatusCode::UNAVAILABLE, "gone"};
    }
    event.mutable_finished()->set_stop_cause("eos");
    writer->Write(event);
    return grpc::Status::OK;
  }

  std::atomic<int> calls{0};
  std::atomic<int> fail_before{0};
  std::atomic<int> fail_after{0};
};

class SdkTroubleTest : public ::testing::Test {
 protected:
  SdkTroubleTest() {
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    address_ = absl::StrCat("127.0.0.1:", port);
  }

  FailingService service_;
  std::unique_ptr<grpc::Server> server_;
  std::string address_;
};

TEST_F(SdkTroubleTest, RetriesBeforeTheAnswerBegins) {
  service_.fail_before = 2;
  EXPECT_EQ(ConnectTo(address_).Generate(Saying("hi"))->text, "a");
  EXPECT_EQ(service_.calls, 3);
}

TEST_F(SdkTroubleTest, RetriesOnlyIfAllowedAndNotForEver) {
  service_.fail_before = 100;
  ConnectOptions once;
  once.retry = false;
  const Status status = ConnectTo(address_, once).Generate(Saying("hi")).status();
  EXPECT_EQ(status.code, StatusCode::kUnavailable);
  EXPECT_THAT(status.message, HasSubstr(address_));
  EXPECT_EQ(service_.calls.exchange(0), 1);
  EXPECT_EQ(ConnectTo(address_).Generate(Saying("hi")).status().code, StatusCode::kUnavailable);
  EXPECT_EQ(service_.calls, 5);
}

TEST_F(SdkTroubleTest, GoesOnWithALostAnswer) {
  service_.fail_after = 2;
  std::string text;
  int started = 0;
  const Client client = ConnectTo(address_);
  AnswerStream stream = client.Stream(Saying("hi"));
  for (const Event& event : stream) {
    started += std::holds_alternative<Started>(event) ? 1 : 0;
    if (const auto* delta = std::get_if<Delta>(&event)) {
      text += delta->text;
    }
  }
  EXPECT_TRUE(stream.status().ok()) << stream.status().ToString();
  EXPECT_EQ(text, "abc");
  EXPECT_EQ(started, 1);
  EXPECT_EQ(service_.calls, 3);
}

TEST_F(SdkTroubleTest, ALostAnswerEndsIfItMayNotGoOn) {
  service_.fail_after = 1;
  ConnectOptions options;
  options.resume_for = std::chrono::nanoseconds(0);
  EXPECT_EQ(ConnectTo(address_, options).Generate(Saying("hi")).status().code, StatusCode::kUnavailable);
  EXPECT_EQ(service_.calls, 1);
}

TEST_F(SdkTroubleTest, AnotherAddressIsUsed) {
  ConnectOptions options;
  options.addresses = {"127.0.0.1:1", address_};
  EXPECT_EQ(Client::Connect(options)->Generate(Saying("hi"))->text, "a");
}

}  // namespace
}  // namespace flexquant::sdk
