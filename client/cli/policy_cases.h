#ifndef FLEXQUANT_CLIENT_CLI_POLICY_CASES_H_
#define FLEXQUANT_CLIENT_CLI_POLICY_CASES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/cli/policy_evaluation.h"
#include "client/cli/request_flags.h"
#include "controller/policy/policy_factory.h"

namespace flexquant::cli {

struct PolicyFlags {
  RequestFlags parameters;    // of the policies; `precision` is not used
  size_t prompt_tokens = 32;  // of each window, at the top precision
  double oracle_kl = 0.02;
  int lookahead = 1;  // of the controller whose policies these are
  uint64_t seed = 1;  // of the controls
};

// Fills `parameters` for a policy as --policy names it: 3 to 8, dynamic, random, position, plan:NAME, kl:NATS or
// bits:BITS; parameters that do not go with it are dropped. INVALID_ARGUMENT.
absl::Status NamePolicy(const std::string& name, RequestFlags& parameters);

// The policy that `name` names, "oracle" too, ready to run at `flags`' lookahead, which is the context's.
// INVALID_ARGUMENT or another error of controller::MakePolicy.
absl::StatusOr<PolicyCase> MakePolicyCase(const PolicyFlags& flags, const std::string& name,
                                          const controller::PolicyContext& context);

// The windows of `windows` with more than `prompt_tokens` tokens. INVALID_ARGUMENT if none has at least two more.
absl::StatusOr<std::vector<PolicyWindow>> WithPrompts(const std::vector<std::vector<uint32_t>>& windows,
                                                      size_t prompt_tokens);

// Controls of a policy that has run on windows 0, 1, ...: its plans at tokens that have nothing to do with them.
// "NAME:shuffled": the plans dealt anew to all tokens, so the bytes are the same.
PolicyCase ShuffledControl(const PolicyCase& of, const PolicyOutcome& outcome, uint64_t seed);
// "NAME:random": each token draws one of the plans, with repetition.
PolicyCase RandomControl(const PolicyCase& of, const PolicyOutcome& outcome, uint64_t seed);

inline constexpr char kShuffledSuffix[] = ":shuffled";
inline constexpr char kRandomSuffix[] = ":random";

}  // namespace flexquant::cli

#endif  // FLEXQUANT_CLIENT_CLI_POLICY_CASES_H_
