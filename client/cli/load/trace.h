#ifndef FLEXQUANT_CLIENT_CLI_LOAD_TRACE_H_
#define FLEXQUANT_CLIENT_CLI_LOAD_TRACE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace flexquant::cli {

// One request of a trace: when it came, how long prompt and answer were, and which prompts begin alike.
struct TraceRequest {
  absl::Duration arrival;  // after the first one
  uint32_t prompt_tokens = 1;
  uint32_t answer_tokens = 1;
  // Contents of the prompt's blocks of kPrefixBlockTokens: equal numbers, equal tokens. Empty = like no other.
  std::vector<uint64_t> prefix_blocks;
};

// Tokens that one of Mooncake's hash_ids stands for.
inline constexpr uint32_t kPrefixBlockTokens = 512;

// Reads at most `limit` requests, in order of arrival: a CSV file of Azure's LLM inference traces (TIMESTAMP,
// ContextTokens, GeneratedTokens) or a Mooncake trace (*.jsonl: timestamp in ms, input_length, output_length,
// hash_ids). NOT_FOUND, or INVALID_ARGUMENT with the line.
absl::StatusOr<std::vector<TraceRequest>> ReadTrace(const std::string& path, size_t limit);

// `count` requests whose arrivals are a Poisson process of `rate` a second (0: all at once).
std::vector<TraceRequest> PoissonTrace(size_t count, double rate, uint32_t prompt_tokens, uint32_t answer_tokens,
                                       uint64_t seed);

// `tokens` times `scale`, rounded, in [1, most].
uint32_t ScaledTokens(uint32_t tokens, double scale, uint32_t most);

// The request's prompt: tokens below `vocab_size`, the same for the same trace, index and seed.
std::vector<uint32_t> PromptOf(const TraceRequest& request, size_t index, uint64_t seed, uint32_t vocab_size);

}  // namespace flexquant::cli

#endif  // FLEXQUANT_CLIENT_CLI_LOAD_TRACE_H_
