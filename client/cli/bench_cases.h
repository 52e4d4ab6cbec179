#ifndef FLEXQUANT_CLIENT_CLI_BENCH_CASES_H_
#define FLEXQUANT_CLIENT_CLI_BENCH_CASES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "client/cli/memory_read.h"
#include "client/cli/rival.h"
#include "client/cpp/client.h"

namespace flexquant::cli {

// Tokens of the prompts that decoding follows, as in tools/rival_bench.py.
inline constexpr uint32_t kDecodePromptTokens = 8;

struct BenchSizes {
  uint32_t decode_tokens = 128;
  uint32_t prefill_tokens = 512;
  uint32_t sequences = 1;  // decoded together, beside one alone; 1 = only one alone
  int repetitions = 5;
};

// One row of `flexquant bench`: a precision, or the rival, at one kind of work.
struct BenchCase {
  enum class Work : uint8_t { kDecode, kDecodeTogether, kPrefill };

  std::string name;
  Work work = Work::kDecode;
  bool rival = false;
  int bits = 0;                           // 0 = dynamic
  std::vector<double> tokens_per_second;  // of all sequences together
  double bytes_per_token = 0;             // weights read a decoded token; 0 = not known
  double mean_bits = 0;
};

std::vector<BenchCase> MakeBenchCases(const BenchSizes& sizes, const v1::ServerInfo& info, bool rival);

// Measures every case `repetitions` times in turns, after a round that warms up; `rival` and `memory` may be null.
// `read_rates` gets the bytes a second that `memory` reads, one a round.
absl::Status MeasureBenchCases(const client::Client& client, const BenchSizes& sizes, uint32_t vocab_size, Rival* rival,
                               MemoryRead* memory, std::vector<BenchCase>& cases, std::vector<double>& read_rates);

}  // namespace flexquant::cli

#endif  // FLEXQUANT_CLIENT_CLI_BENCH_CASES_H_
