#ifndef FLEXQUANT_KERNELS_SAMPLING_H_
#define FLEXQUANT_KERNELS_SAMPLING_H_

// Token sampling on the CPU. Deterministic: the same logits, parameters and draw index give the same token whatever the
// batch, thread count or instruction set.

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "kernels/kernels.h"

namespace flexquant {

// All in force; ranges as in flexquant.v1.SamplingParams.
struct SamplingConfig {
  float temperature = 0;  // 0 = greedy
  uint32_t top_k = 0;     // 0 = all
  float top_p = 1;        // 1 = off
  float min_p = 0;        // 0 = off
  float repetition_penalty = 1;
  float presence_penalty = 0;
  float frequency_penalty = 0;
  uint64_t seed = 0;
};

// Uniform in [0, 1) from Philox4x32-10 with key `seed` and counter `draw`. Source: Salmon et al., "Parallel random
// numbers: as easy as 1, 2, 3", SC 2011.
double PhiloxUniform(uint64_t seed, uint64_t draw);

// Counts of tokens seen by one sequence, for penalties. Not thread-safe.
class TokenCounts {
 public:
  void AddPrompt(uint32_t id);
  void AddAnswer(uint32_t id);
  // (id, count in the answer, 0 = prompt only) of every token seen, in order of first sight.
  const std::vector<std::pair<uint32_t, uint32_t>>& entries() const { return entries_; }

 private:
  uint32_t Slot(uint32_t id);
  std::vector<std::pair<uint32_t, uint32_t>> entries_;
  std::vector<uint32_t> slot_of_id_;  // 0 = none, else index + 1
};

struct SampledToken {
  uint32_t id = 0;
  LogitStats stats;   // of the unmodified logits
  float logprob = 0;  // of id under the unmodified distribution
  std::vector<std::pair<uint32_t, float>>
      top;  // most likely tokens and log-probabilities, most likely first; ties by smaller id
};

// Samples from `logits`, which penalties modify in place. Order: penalties, temperature, top-k, top-p, min-p, one draw.
// Ties by smaller id.
SampledToken SampleToken(const CpuKernels& kernels, absl::Span<float> logits, const SamplingConfig& config,
                         const TokenCounts& counts, uint64_t draw, uint32_t top_logprobs);

}  // namespace flexquant

#endif  // FLEXQUANT_KERNELS_SAMPLING_H_
