#include "client/cli/load/trace.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <random>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "nlohmann/json.hpp"

namespace flexquant::cli {
namespace {

absl::Status BadLine(const std::string& path, size_t line, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat(path, ":", line, ": ", what));
}

absl::StatusOr<std::pair<absl::Time, TraceRequest>> ParseAzure(const std::string& line) {
  const std::vector<std::string> fields = absl::StrSplit(absl::StripSuffix(line, "\r"), ',');
  TraceRequest request;
  absl::Time time;
  std::string error;
  // RFC 3339 fractions: the files have seven digits.
  if (fields.size() != 3 || !absl::ParseTime("%Y-%m-%d %H:%M:%E*S", fields[0], &time, &error) ||
      !absl::SimpleAtoi(fields[1], &request.prompt_tokens) || !absl::SimpleAtoi(fields[2], &request.answer_tokens)) {
    return absl::InvalidArgumentError("not TIMESTAMP,ContextTokens,GeneratedTokens");
  }
  return std::make_pair(time, request);
}

absl::StatusOr<std::pair<absl::Time, TraceRequest>> ParseMooncake(const std::string& line) {
  const nlohmann::json json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  const auto number = [&](const char* name) {
    return json.is_object() && json.contains(name) && json[name].is_number_unsigned();
  };
  if (!number("timestamp") || !number("input_length") || !number("output_length") || !json.contains("hash_ids") ||
      !json["hash_ids"].is_array()) {
    return absl::InvalidArgumentError("not an object with timestamp, input_length, output_length and hash_ids");
  }
  TraceRequest request;
  request.prompt_tokens = json["input_length"].get<uint32_t>();
  request.answer_tokens = json["output_length"].get<uint32_t>();
  for (const auto& id : json["hash_ids"]) {
    if (!id.is_number_unsigned()) {
      return absl::InvalidArgumentError("hash_ids has something else than numbers");
    }
    request.prefix_blocks.push_back(id.get<uint64_t>());
  }
  return std::make_pair(absl::UnixEpoch() + absl::Milliseconds(json["timestamp"].get<int64_t>()), request);
}

// Tokens of one content.
void AppendTokens(uint64_t content, size_t count, uint32_t vocab_size, std::vector<uint32_t>* tokens) {
  std::mt19937_64 random(content);
  // The lowest ids are bytes and special tokens in most vocabularies.
  const uint32_t first = std::min(vocab_size / 4, 300U);
  for (size_t i = 0; i < count; ++i) {
    tokens->push_back(first + static_cast<uint32_t>(random() % (vocab_size - first)));
  }
}

}  // namespace

absl::StatusOr<std::vector<TraceRequest>> ReadTrace(const std::string& path, size_t limit) {
  std::ifstream file(path);
  if (!file) {
    return absl::NotFoundError(absl::StrCat("cannot open ", path));
  }
  const bool mooncake = absl::EndsWith(path, ".jsonl");
  std::vector<std::pair<absl::Time, TraceRequest>> read;
  std::string line;
  for (size_t number = 1; read.size() < limit && std::getline(file, line); ++number) {
    if (line.empty() || (!mooncake && number == 1)) {  // a CSV file's header
      continue;
    }
    auto parsed = mooncake ? ParseMooncake(line) : ParseAzure(line);
    if (!parsed.ok()) {
      return BadLine(path, number, std::string(parsed.status().message()));
    }
    read.push_back(*std::move(parsed));
  }
  if (read.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(path, " has no requests"));
  }
  std::stable_sort(read.begin(), read.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<TraceRequest> trace;
  for (auto& [time, request] : read) {
    request.arrival = time - read.front().first;
    request.prompt_tokens = std::max(request.prompt_tokens, 1U);
    request.answer_tokens = std::max(request.answer_tokens, 1U);
    trace.push_back(std::move(request));
  }
  return trace;
}

std::vector<TraceRequest> PoissonTrace(size_t count, double rate, uint32_t prompt_tokens, uint32_t answer_tokens,
                                       uint64_t seed) {
  std::mt19937_64 random(seed);
  std::exponential_distribution<double> gap(rate > 0 ? rate : 1);
  std::vector<TraceRequest> trace(count);
  double arrival = 0;
  for (TraceRequest& request : trace) {
    request.arrival = absl::Seconds(arrival);
    request.prompt_tokens = prompt_tokens;
    request.answer_tokens = answer_tokens;
    arrival += rate > 0 ? gap(random) : 0;
  }
  return trace;
}

uint32_t ScaledTokens(uint32_t tokens, double scale, uint32_t most) {
  return static_cast<uint32_t>(std::clamp<double>(std::round(tokens * scale), 1, most));
}

std::vector<uint32_t> PromptOf(const TraceRequest& request, size_t index, uint64_t seed, uint32_t vocab_size) {
  std::vector<uint32_t> tokens;
  for (const uint64_t block : request.prefix_blocks) {
    if (tokens.size() < request.prompt_tokens) {
      const size_t left = request.prompt_tokens - tokens.size();
      AppendTokens(seed * 1'000'003 + block, std::min<size_t>(kPrefixBlockTokens, left), vocab_size, &tokens);
    }
  }
  if (tokens.size() < request.prompt_tokens) {
    AppendTokens((seed + 1) * 2'147'483'647 + index, request.prompt_tokens - tokens.size(), vocab_size, &tokens);
  }
  return tokens;
}

}  // namespace flexquant::cli
