// Streams an answer and says what precision it used: flexquant-example HOST:PORT [PROMPT]

#include <flexquant/client.h>

#include <chrono>
#include <iostream>
#include <string>
#include <variant>

int main(int argc, char** argv) {
  if (argc < 2) {
    std::cerr << "usage: flexquant-example HOST:PORT [PROMPT]\n";
    return 2;
  }
  flexquant::ConnectOptions connect;
  connect.addresses = {argv[1]};
  const auto client = flexquant::Client::Connect(connect);
  if (!client.ok()) {
    std::cerr << client.status().ToString() << "\n";
    return 1;
  }

  flexquant::GenerateRequest request;
  request.prompt = argc > 2 ? argv[2] : "Once upon a time";
  request.precision.policy = flexquant::Dynamic{};
  request.stop.max_tokens = 48;
  flexquant::CallOptions options;
  options.timeout = std::chrono::seconds(60);
  auto stream = client->Stream(request, options);
  for (const flexquant::Event& event : stream) {
    if (const auto* delta = std::get_if<flexquant::Delta>(&event)) {
      std::cout << delta->text << std::flush;
    } else if (const auto* finished = std::get_if<flexquant::Finished>(&event)) {
      std::cout << "\n" << finished->precision.mean_bits << " bits a weight\n";
    }
  }
  if (const flexquant::Status status = stream.status(); !status.ok()) {
    std::cerr << status.ToString() << "\n";
    return 1;
  }
  return 0;
}
