#ifndef FLEXQUANT_CLIENT_CLI_REQUEST_FLAGS_H_
#define FLEXQUANT_CLIENT_CLI_REQUEST_FLAGS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"
#include "flexquant/v1/inference.pb.h"

namespace flexquant::cli {

// Flags of an answer: sampling, stop, precision, batch mode. What is unset is left to the server, which also checks the
// ranges.
struct RequestFlags {
  std::optional<double> temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty;
  std::optional<uint32_t> top_k, max_tokens;
  std::optional<uint64_t> seed;
  std::vector<std::string> stop;
  bool ignore_eos = false;
  std::string precision;  // empty = not given
  std::optional<double> max_mean_kl, target_bits;
  std::optional<uint32_t> min_bits, max_bits, tokens_per_level;
  std::optional<double> entropy_high, hysteresis, pple_weight;
  std::string batch_mode = "shared";
};

void AddRequestFlags(CLI::App& app, RequestFlags& flags);
// Of these, the parameters of the policies that move, as one group of the help.
void AddPolicyParameters(CLI::App& app, const std::string& group, RequestFlags& flags);

// Fills `request` (all but prompt, model and output). INVALID_ARGUMENT for flags that do not go together.
absl::Status FillRequest(const RequestFlags& flags, v1::GenerateRequest& request);

// What is wrong with `text` as a value of --precision; empty if nothing.
std::string CheckPrecision(const std::string& text);

// Text of the precisions --precision takes, for help and errors.
extern const char kPrecisionWords[];

}  // namespace flexquant::cli

#endif  // FLEXQUANT_CLIENT_CLI_REQUEST_FLAGS_H_
