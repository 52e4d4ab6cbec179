#ifndef FLEXQUANT_COMMON_MODEL_CONFIG_H_
#define FLEXQUANT_COMMON_MODEL_CONFIG_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace flexquant {

enum class RopeScaling : uint8_t { kNone, kLinear, kLlama3 };

// Rotary embedding. Pairs are always (i, i + head_dim / 2), Hugging Face's convention; sources that rotate neighbours
// (GGUF's llama architecture, llama2.c) have their q and k rows permuted when they are read.
struct RopeConfig {
  double theta = 10000.0;
  RopeScaling scaling = RopeScaling::kNone;
  double factor = 1.0;                   // linear, llama3
  double low_freq_factor = 1.0;          // llama3
  double high_freq_factor = 4.0;         // llama3
  int64_t original_max_position = 8192;  // llama3, tokens
  // Exact divisors of each frequency when a source gives a table instead (GGUF's rope_freqs); [head_dim / 2] or empty.
  std::vector<float> frequency_divisors;
};

// Shape and constants of a decoder-only transformer with RMS norm, rotary embeddings, GQA and SwiGLU.
struct ModelConfig {
  std::string family;  // "llama" (SmolLM2 too), "mistral", "qwen2" (Qwen2.5 too), "qwen3"
  std::string name;    // for people; may be empty
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_layers = 0;
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  int64_t vocab_size = 0;
  int64_t max_context = 0;     // tokens
  int64_t sliding_window = 0;  // tokens; 0 = none
  double rms_norm_eps = 1e-5;
  RopeConfig rope;
  bool tied_head = false;  // lm_head is the embedding
  bool qkv_bias = false;   // biases on q, k and v
  bool o_bias = false;
  bool mlp_bias = false;  // biases on gate, up and down
  bool qk_norm = false;   // RMS norm on each head of q and k (Qwen3)
  std::vector<uint32_t> eos_token_ids;
  int64_t bos_token_id = -1;  // -1 = none

  int64_t q_size() const { return num_heads * head_dim; }
  int64_t kv_size() const { return num_kv_heads * head_dim; }

  // INVALID_ARGUMENT naming the field, its value and the allowed range.
  absl::Status Validate() const;

  // Number of parameters, a tied head counted once.
  uint64_t NumParameters() const;

  // Reads Hugging Face's config.json. Unknown family: UNIMPLEMENTED naming it and the known ones.
  static absl::StatusOr<ModelConfig> FromJson(const std::string& json_text);
  // Writes config.json in Hugging Face's words; FromJson(ToJson()) is the same config.
  std::string ToJson() const;
};

}  // namespace flexquant

#endif  // FLEXQUANT_COMMON_MODEL_CONFIG_H_
