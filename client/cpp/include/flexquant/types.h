#ifndef FLEXQUANT_CLIENT_CPP_INCLUDE_FLEXQUANT_TYPES_H_
#define FLEXQUANT_CLIENT_CPP_INCLUDE_FLEXQUANT_TYPES_H_

// What goes to a FlexQuant server and comes back: plain values of the standard library. Fields that are not set have
// the server's defaults. Ranges are those of flexquant.v1 (proto/flexquant/v1); the server checks them and answers
// INVALID_ARGUMENT with the field's path.

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace flexquant {

using TokenId = uint32_t;  // index in the model's vocabulary

// ---- Requests

struct ChatMessage {
  std::string role;     // "system", "user" or "assistant"
  std::string content;  // UTF-8
};
// Put through the model's chat template; the answer is the next assistant message.
using Chat = std::vector<ChatMessage>;

// Plain text (UTF-8) continued as it is, token ids taken as they are, or a chat.
using Prompt = std::variant<std::string, std::vector<TokenId>, Chat>;

// How tokens are drawn.
struct Sampling {
  std::optional<double> temperature;         // [0, 100]; 0 = greedy. Default: 0
  std::optional<uint32_t> top_k;             // 0 = all. Default: 0
  std::optional<double> top_p;               // (0, 1]. Default: 1
  std::optional<double> min_p;               // [0, 1]. Default: 0
  std::optional<double> repetition_penalty;  // (0, 10]. Default: 1 (off)
  std::optional<double> presence_penalty;    // [-10, 10]. Default: 0
  std::optional<double> frequency_penalty;   // [-10, 10]. Default: 0
  std::optional<uint64_t> seed;              // Default: chosen by the server and echoed in Started
};

// Every layer group at so many bits: one of ServerInfo::precisions, or 16 with has_reference.
struct FixedBits {
  uint32_t bits = 8;
};
// A plan of ServerInfo::named_plans.
struct NamedPlan {
  std::string name;
};
// Bits for each of ServerInfo::layer_groups, in their order.
struct LayerGroupPlan {
  std::vector<uint32_t> bits;
};
// Token by token from the entropy of the tokens so far.
struct Dynamic {
  std::optional<double> pple_weight;        // weight of the newest token, (0, 1]. Default: 0.3
  std::optional<double> entropy_high_nats;  // at which the top level is used, (0, 20]. Default: 2
  std::optional<double> hysteresis_levels;  // [0, 4]. Default: 0.5
};
// Control: levels at random.
struct RandomLevels {
  std::optional<uint64_t> seed;  // Default: the sampling seed
};
// Control: levels by position, from the top down.
struct PositionLevels {
  std::optional<uint32_t> tokens_per_level;  // >= 1. Default: 16
};
// The fewest bytes whose KL to the top precision, averaged over the answer, is expected to stay within so many nats.
// Calibrated models only, else FAILED_PRECONDITION.
struct MaxMeanKl {
  double nats = 0.01;
};
// The least expected KL whose mean comes to so many bits a weight. Calibrated models only.
struct TargetMeanBits {
  double bits = 5;
};

// How the precision (weight bits) of each token is chosen.
struct Precision {
  // Nothing chosen: MaxMeanKl{0.01} on a calibrated model, Dynamic{} on another.
  std::variant<std::monostate, FixedBits, NamedPlan, LayerGroupPlan, Dynamic, RandomLevels, PositionLevels, MaxMeanKl,
               TargetMeanBits>
      policy;
  // Bounds in bits, of ServerInfo::precisions; for policies that move.
  std::optional<uint32_t> min_bits;
  std::optional<uint32_t> max_bits;
};

// When an answer ends.
struct Stop {
  std::optional<uint32_t> max_tokens;  // >= 1. Default: 256
  std::vector<std::string> strings;    // the answer ends before the first of these; at most 16
  std::vector<TokenId> token_ids;      // beside the model's end-of-sequence; at most 64
  bool ignore_eos = false;
};

enum class BatchMode {
  kShared,    // a step may run at a higher precision because another sequence asked for it
  kIsolated,  // exactly at its own plan: the same bits whoever shares the batch
};

struct GenerateRequest {
  Prompt prompt;
  Sampling sampling;
  Precision precision;
  Stop stop;
  bool token_info = false;    // Delta::tokens and Answer::tokens are filled
  uint32_t top_logprobs = 0;  // with token_info: so many of the most likely tokens each, [0, 20]
  std::string request_id;     // for Client::Abort and logs, <= 128 bytes of printable ASCII; empty = the server's
  std::optional<BatchMode> batch_mode;  // Default: shared
  int32_t priority = 0;                 // [-100, 100]; waiting requests with a higher one go first
  std::string model;                    // empty = the server's only one
};

// ---- Answers

struct TokenLogprob {
  TokenId id = 0;
  double logprob = 0;  // nats, <= 0
};

// Everything about one generated token. Signals are those of the model's distribution before temperature and filters.
struct Token {
  TokenId id = 0;
  double bits = 0;  // mean bits a weight that it was computed with
  double entropy_nats = 0;
  double top1_probability = 0;     // of the most likely token, (0, 1]
  double margin = 0;               // top-1 minus top-2 logit, >= 0
  double logprob = 0;              // of this token, nats, <= 0
  std::vector<TokenLogprob> top;   // most likely first; as many as asked for
  std::optional<uint32_t> level;   // on the ladder of plans, 0 = cheapest; not for policies without one
  std::optional<double> audit_kl;  // KL to the top precision measured of this token, nats; if it was audited
};

struct PrecisionCount {
  uint32_t bits = 0;
  uint64_t tokens = 0;
};

// KL measured by computing sampled tokens at the top precision too.
struct Audit {
  uint32_t tokens = 0;                    // audited
  double mean_kl = 0;                     // nats
  std::optional<double> low_kl, high_kl;  // 95 % interval of the answer's mean; not with a single token
};

enum class Calibration { kUnknown, kUncalibrated, kCalibrated };

// What precision an answer really used.
struct PrecisionReport {
  std::string policy;                     // "fixed", "plan", "dynamic", "random", "position", "max_mean_kl" or
                                          // "target_mean_bits"
  std::vector<PrecisionCount> histogram;  // tokens by their mean bits, ascending
  double mean_bits = 0;                   // a weight, over the generated tokens; 0 = none
  uint64_t weight_bytes_read = 0;         // for the generated tokens, as if the sequence ran alone
  uint64_t weight_bytes_top = 0;          // that they would have read at the top quantised precision
  uint32_t plan_changes = 0;
  Calibration calibration = Calibration::kUnknown;
  std::optional<double> max_mean_kl;        // budget in force, nats
  std::optional<double> target_mean_bits;   // goal in force
  std::optional<double> predicted_mean_kl;  // nats a token; of the two policies above
  std::optional<bool> within_budget;        // predicted_mean_kl <= max_mean_kl
  std::optional<Audit> audit;               // set if tokens were audited
};

struct Usage {
  uint32_t prompt_tokens = 0;
  uint32_t generated_tokens = 0;
  std::chrono::nanoseconds queue_time{0};             // before the first step
  std::chrono::nanoseconds time_to_first_token{0};    // from the request's arrival
  std::chrono::nanoseconds time_per_output_token{0};  // mean of later tokens; 0 if there are none
};

// First event of a stream, with the values in force.
struct Started {
  std::string request_id;
  std::string model;
  std::string model_revision;  // identifies what the model computes
  uint32_t prompt_tokens = 0;
  Sampling sampling;
  Precision precision;
  Stop stop;
  BatchMode batch_mode = BatchMode::kShared;
};

// New text.
struct Delta {
  std::string text;  // whole code points of UTF-8; may be empty. All deltas' texts together are the answer.
  std::vector<TokenId> token_ids;
  std::vector<Token> tokens;  // one for each id with GenerateRequest::token_info, else empty
};

enum class FinishReason { kStop, kLength };

// Last event of a stream.
struct Finished {
  FinishReason reason = FinishReason::kStop;
  std::string stop_cause;  // "eos", "token:ID", "string:TEXT", "max_tokens" or "context"
  Usage usage;
  PrecisionReport precision;
};

using Event = std::variant<Started, Delta, Finished>;

// A whole answer.
struct Answer {
  Started started;
  std::string text;
  std::vector<TokenId> token_ids;
  std::vector<Token> tokens;
  Finished finished;
};

// ---- The server

struct LayerGroup {
  std::string name;  // such as "layers.0.qkv"
  uint64_t num_weights = 0;
};

struct PlanInfo {
  std::string name;
  std::vector<uint32_t> bits;  // a layer group
  double mean_bits = 0;
};

struct ExecutorInfo {
  std::string address;
  std::string device;
  uint32_t num_kv_blocks = 0;
  uint32_t kv_block_tokens = 0;
  bool ready = false;
  uint32_t kv_blocks_used = 0;     // now
  uint32_t running_sequences = 0;  // now
};

struct ServerInfo {
  std::string server_version;
  std::string instance_id;  // of this controller process
  std::string model;
  std::string model_revision;
  std::string family;
  uint64_t num_parameters = 0;
  uint32_t vocab_size = 0;
  uint32_t context_tokens = 0;       // prompt and answer together
  std::vector<uint32_t> precisions;  // bits, ascending
  bool has_reference = false;        // 16 bits, unquantised
  bool has_chat_template = false;
  uint32_t max_batch_sequences = 0;
  uint32_t running_requests = 0;  // that executors compute now
  uint32_t waiting_requests = 0;  // accepted, waiting for an executor now
  std::vector<LayerGroup> layer_groups;
  std::vector<PlanInfo> named_plans;
  std::vector<ExecutorInfo> executors;
};

}  // namespace flexquant

#endif  // FLEXQUANT_CLIENT_CPP_INCLUDE_FLEXQUANT_TYPES_H_
