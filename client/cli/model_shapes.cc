#include "client/cli/model_shapes.h"

namespace flexquant::cli {
namespace {

ModelConfig Shape(const std::string& family, int64_t hidden, int64_t intermediate, int64_t layers, int64_t heads,
                  int64_t kv_heads, int64_t head_dim, int64_t vocab, bool tied) {
  ModelConfig config;
  config.family = family;
  config.hidden_size = hidden;
  config.intermediate_size = intermediate;
  config.num_layers = layers;
  config.num_heads = heads;
  config.num_kv_heads = kv_heads;
  config.head_dim = head_dim;
  config.vocab_size = vocab;
  config.tied_head = tied;
  config.qkv_bias = family == "qwen2";
  config.qk_norm = family == "qwen3";
  return config;
}

}  // namespace

const std::map<std::string, ModelConfig>& ModelShapes() {
  static const auto* shapes = new std::map<std::string, ModelConfig>{
      {"llama-3.1-8b", Shape("llama", 4096, 14336, 32, 32, 8, 128, 128256, false)},
      {"llama-3.1-70b", Shape("llama", 8192, 28672, 80, 64, 8, 128, 128256, false)},
      {"llama-3.2-1b", Shape("llama", 2048, 8192, 16, 32, 8, 64, 128256, true)},
      {"llama-3.2-3b", Shape("llama", 3072, 8192, 28, 24, 8, 128, 128256, true)},
      {"mistral-7b", Shape("mistral", 4096, 14336, 32, 32, 8, 128, 32768, false)},
      {"qwen2.5-7b", Shape("qwen2", 3584, 18944, 28, 28, 4, 128, 152064, false)},
      {"qwen3-8b", Shape("qwen3", 4096, 12288, 36, 32, 8, 128, 151936, false)},
      {"smollm2-135m", Shape("llama", 576, 1536, 30, 9, 3, 64, 49152, true)},
  };
  return *shapes;
}

std::vector<std::string> ModelShapeNames() {
  std::vector<std::string> names;
  for (const auto& [name, config] : ModelShapes()) {
    names.push_back(name);
  }
  return names;
}

}  // namespace flexquant::cli
