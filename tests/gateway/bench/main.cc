// The parts of tests/gateway/bench/bench.py:
//   flexquant_gateway_bench serve MODEL STEP_US     a controller over an executor that computes nothing; says its port
//   flexquant_gateway_bench grpc ADDRESS STREAMS TOKENS
//   flexquant_gateway_bench http ADDRESS STREAMS TOKENS   the same answers through a gateway
// The last two print one line: tokens a second, and the times to the first token's bytes in us, median and 99th
// percentile.

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "common/log.h"
#include "controller/model_package.h"
#include "controller/server.h"
#include "flexquant/v1/inference.grpc.pb.h"
#include "grpcpp/create_channel.h"
#include "tests/controller/bench/null_executor.h"

namespace flexquant {
namespace {

using Clock = std::chrono::steady_clock;

struct StreamResult {
  uint64_t tokens = 0;
  double first_us = 0;
};

[[noreturn]] void Fail(const std::string& what) {
  std::fprintf(stderr, "%s\n", what.c_str());
  std::exit(1);
}

int64_t Number(const std::string& text) {
  int64_t number = 0;
  if (!absl::SimpleAtoi(text, &number)) {
    Fail(text + " is not a number");
  }
  return number;
}

double MicrosecondsSince(Clock::time_point start) {
  return std::chrono::duration<double, std::micro>(Clock::now() - start).count();
}

int Serve(const char* folder, int64_t step_us) {
  ConfigureLog("bench", "warn", /*json=*/false);
  const auto model = controller::LoadModelPackage(folder, 1);
  if (!model.ok()) {
    Fail(model.status().ToString());
  }
  controller::NullExecutor::StepTime step_time;
  if (step_us > 0) {
    step_time = [step_us](const executor::v1::StepRequest& /*step*/) { return std::chrono::microseconds(step_us); };
  }
  const auto executor =
      controller::NullExecutor::Start(model->revision, model->layer_groups->count(), 256, std::move(step_time));
  controller::ControllerOptions options;
  options.model_dir = folder;
  options.listen.address = "127.0.0.1:0";
  options.executors = {{"null", executor->channel()}};
  options.audit_rate = 0;
  const auto server = controller::ControllerServer::Create(options);
  if (!server.ok() || !(*server)->WaitReady(absl::Seconds(30)).ok()) {
    Fail(server.status().ToString());
  }
  std::printf("%d\n", (*server)->port());
  std::fflush(stdout);
  pause();
  return 0;
}

std::string Prompt(int stream) { return "Once upon a time number " + std::to_string(stream); }

StreamResult ReadGrpc(v1::InferenceService::Stub& stub, int stream, uint32_t tokens) {
  v1::GenerateStreamRequest request;
  request.mutable_request()->set_text(Prompt(stream));
  request.mutable_request()->mutable_stop()->set_max_tokens(tokens);
  request.mutable_request()->mutable_stop()->set_ignore_eos(true);
  StreamResult result;
  const auto start = Clock::now();
  grpc::ClientContext context;
  const auto reader = stub.GenerateStream(&context, request);
  v1::GenerateStreamResponse event;
  while (reader->Read(&event)) {
    if (event.has_delta() && result.tokens == 0) {
      result.first_us = MicrosecondsSince(start);
    }
    result.tokens += static_cast<uint64_t>(event.delta().token_ids_size());
  }
  if (const grpc::Status status = reader->Finish(); !status.ok()) {
    Fail(status.error_message());
  }
  return result;
}

int Connect(const std::string& address) {
  const size_t colon = address.rfind(':');
  sockaddr_in target = {};
  target.sin_family = AF_INET;
  target.sin_port = htons(static_cast<uint16_t>(Number(address.substr(colon + 1))));
  inet_pton(AF_INET, address.substr(0, colon).c_str(), &target.sin_addr);
  const int connection = socket(AF_INET, SOCK_STREAM, 0);
  if (connect(connection, reinterpret_cast<const sockaddr*>(&target), sizeof(target)) != 0) {
    Fail("cannot connect to " + address);
  }
  return connection;
}

// One stream of server-sent events. The last chunk says how many tokens there were.
StreamResult ReadHttp(const std::string& address, int stream, uint32_t tokens) {
  const int connection = Connect(address);
  const std::string body =
      R"({"stream":true,"stream_options":{"include_usage":true},"ignore_eos":true,"temperature":0,)"
      R"("max_tokens":)" +
      std::to_string(tokens) + R"(,"prompt":")" + Prompt(stream) + "\"}";
  const std::string request =
      "POST /v1/completions HTTP/1.1\r\nHost: bench\r\nConnection: close\r\nContent-Type: application/json\r\n"
      "Content-Length: " +
      std::to_string(body.size()) + "\r\n\r\n" + body;
  StreamResult result;
  const auto start = Clock::now();
  if (send(connection, request.data(), request.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(request.size())) {
    Fail("cannot send");
  }
  std::string last;
  std::array<char, 65536> buffer = {};
  for (ssize_t count = 0; (count = recv(connection, buffer.data(), buffer.size(), 0)) > 0;) {
    last.append(buffer.data(), static_cast<size_t>(count));
    if (result.first_us == 0 && last.find("data: ") != std::string::npos) {
      result.first_us = MicrosecondsSince(start);
    }
    constexpr size_t kTail = 2048;
    if (result.first_us > 0 && last.size() > 2 * kTail) {
      last.erase(0, last.size() - kTail);
    }
  }
  close(connection);
  const size_t usage = last.find(R"("completion_tokens":)");
  if (usage == std::string::npos) {
    Fail("an answer without its end: " + last);
  }
  result.tokens = std::strtoull(last.c_str() + usage + 20, nullptr, 10);
  return result;
}

template <typename Read>
int Load(int streams, const Read& read) {
  std::vector<StreamResult> results(static_cast<size_t>(streams));
  std::vector<std::thread> threads;
  const auto start = Clock::now();
  for (int i = 0; i < streams; ++i) {
    threads.emplace_back([&, i] { results[static_cast<size_t>(i)] = read(i); });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  const double seconds = MicrosecondsSince(start) * 1e-6;
  double tokens = 0;
  std::vector<double> first;
  for (const StreamResult& result : results) {
    tokens += static_cast<double>(result.tokens);
    first.push_back(result.first_us);
  }
  std::sort(first.begin(), first.end());
  std::printf("%.0f %.0f %.0f\n", tokens / seconds, first[first.size() / 2], first[first.size() * 99 / 100]);
  return 0;
}

int Run(const std::vector<std::string>& arguments) {
  if (arguments.size() == 3 && arguments[0] == "serve") {
    return Serve(arguments[1].c_str(), Number(arguments[2]));
  }
  if (arguments.size() != 4) {
    Fail("usage: serve MODEL STEP_US | grpc ADDRESS STREAMS TOKENS | http ADDRESS STREAMS TOKENS");
  }
  const int streams = static_cast<int>(Number(arguments[2]));
  const auto tokens = static_cast<uint32_t>(Number(arguments[3]));
  if (arguments[0] == "http") {
    return Load(streams, [&](int stream) { return ReadHttp(arguments[1], stream, tokens); });
  }
  const auto channel = grpc::CreateChannel(arguments[1], grpc::InsecureChannelCredentials());
  const auto stub = v1::InferenceService::NewStub(channel);
  return Load(streams, [&](int stream) { return ReadGrpc(*stub, stream, tokens); });
}

}  // namespace
}  // namespace flexquant

int main(int argc, char** argv) { return flexquant::Run({argv + 1, argv + argc}); }
