#include "tests/formats/test_support.h"

#include <random>

#include "absl/strings/str_replace.h"

namespace flexquant {

void Mutate(const std::string& good, int rounds, const std::function<void(const std::string&)>& parse) {
  for (size_t size = 0; size <= good.size(); ++size) {
    parse(good.substr(0, size));
  }
  std::mt19937 random(1234);
  for (int round = 0; round < rounds; ++round) {
    std::string bad = good;
    const size_t changes = 1 + random() % 4;
    for (size_t i = 0; i < changes; ++i) {
      // Extreme values find more than random ones.
      constexpr uint8_t kExtremes[] = {0x00, 0x7F, 0x80, 0xFF};
      const auto value = static_cast<uint8_t>(random() % 2 == 0 ? kExtremes[random() % 4] : random() % 256);
      bad[random() % bad.size()] = static_cast<char>(value);
    }
    parse(bad);
  }
}

namespace {

void AppendText(std::string* out, const std::string& text) {
  AppendValue<uint64_t>(out, text.size());
  *out += text;
}

}  // namespace

void TestGguf::Add(const std::string& key, uint32_t type, const std::string& value) {
  std::string entry;
  AppendValue(&entry, type);
  metadata.emplace_back(key, entry + value);
}

void TestGguf::AddUint32(const std::string& key, uint32_t value) {
  std::string bytes;
  AppendValue(&bytes, value);
  Add(key, 4, bytes);
}

void TestGguf::AddFloat(const std::string& key, float value) {
  std::string bytes;
  AppendValue(&bytes, value);
  Add(key, 6, bytes);
}

void TestGguf::AddString(const std::string& key, const std::string& value) {
  std::string bytes;
  AppendText(&bytes, value);
  Add(key, 8, bytes);
}

std::string TestGguf::Bytes() const {
  std::string out = magic;
  AppendValue(&out, version);
  AppendValue(&out, tensor_count >= 0 ? static_cast<uint64_t>(tensor_count) : tensors.size());
  AppendValue(&out, metadata_count >= 0 ? static_cast<uint64_t>(metadata_count) : metadata.size());
  for (const auto& [key, value] : metadata) {
    AppendText(&out, key);
    out += value;
  }
  std::string data;
  for (const TestTensor& tensor : tensors) {
    data.resize((data.size() + alignment - 1) / alignment * alignment);
    AppendText(&out, tensor.name);
    AppendValue(&out, static_cast<uint32_t>(tensor.dimensions.size()));
    for (const uint64_t dimension : tensor.dimensions) {
      AppendValue(&out, dimension);
    }
    AppendValue(&out, tensor.type);
    AppendValue(&out, tensor.offset >= 0 ? static_cast<uint64_t>(tensor.offset) : data.size());
    data += tensor.data;
  }
  out.resize((out.size() + alignment - 1) / alignment * alignment);
  return out + data;
}

std::string SafetensorsBytes(const std::string& header, const std::string& data) {
  std::string out;
  AppendText(&out, header);
  return out + data;
}

ModelConfig SmallConfig(const std::string& family) {
  ModelConfig config;
  config.family = family;
  config.name = "small";
  config.hidden_size = 8;
  config.intermediate_size = 12;
  config.num_layers = 2;
  config.num_heads = 2;
  config.num_kv_heads = 1;
  config.head_dim = 4;
  config.vocab_size = 16;
  config.max_context = 64;
  config.tied_head = true;
  config.qkv_bias = family == "qwen2";
  config.qk_norm = family == "qwen3";
  config.bos_token_id = 1;
  config.eos_token_ids = {2};
  return config;
}

std::map<std::string, NamedTensor> SmallTensors(const ModelConfig& config) {
  std::map<std::string, NamedTensor> tensors;
  float next = 1;
  const auto add = [&tensors, &next](const std::string& name, std::vector<int64_t> shape) {
    NamedTensor tensor;
    int64_t size = 1;
    for (const int64_t dimension : shape) {
      size *= dimension;
    }
    tensor.shape = std::move(shape);
    for (int64_t i = 0; i < size; ++i) {
      tensor.values.push_back(next / 256);
      next += 1;
    }
    tensors.emplace(name, std::move(tensor));
  };
  const int64_t hidden = config.hidden_size;
  add("model.embed_tokens.weight", {config.vocab_size, hidden});
  add("model.norm.weight", {hidden});
  if (!config.tied_head) {
    add("lm_head.weight", {config.vocab_size, hidden});
  }
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    const std::string block = absl::StrCat("model.layers.", layer, ".");
    add(block + "input_layernorm.weight", {hidden});
    add(block + "post_attention_layernorm.weight", {hidden});
    add(block + "self_attn.q_proj.weight", {config.q_size(), hidden});
    add(block + "self_attn.k_proj.weight", {config.kv_size(), hidden});
    add(block + "self_attn.v_proj.weight", {config.kv_size(), hidden});
    add(block + "self_attn.o_proj.weight", {hidden, config.q_size()});
    add(block + "mlp.gate_proj.weight", {config.intermediate_size, hidden});
    add(block + "mlp.up_proj.weight", {config.intermediate_size, hidden});
    add(block + "mlp.down_proj.weight", {hidden, config.intermediate_size});
    if (config.qkv_bias) {
      add(block + "self_attn.q_proj.bias", {config.q_size()});
      add(block + "self_attn.k_proj.bias", {config.kv_size()});
      add(block + "self_attn.v_proj.bias", {config.kv_size()});
    }
    if (config.qk_norm) {
      add(block + "self_attn.q_norm.weight", {config.head_dim});
      add(block + "self_attn.k_norm.weight", {config.head_dim});
    }
  }
  return tensors;
}

std::string GgufName(const std::string& name) {
  return absl::StrReplaceAll(name, {{"model.embed_tokens", "token_embd"},
                                    {"model.norm", "output_norm"},
                                    {"lm_head", "output"},
                                    {"model.layers.", "blk."},
                                    {"input_layernorm", "attn_norm"},
                                    {"post_attention_layernorm", "ffn_norm"},
                                    {"self_attn.q_proj", "attn_q"},
                                    {"self_attn.k_proj", "attn_k"},
                                    {"self_attn.v_proj", "attn_v"},
                                    {"self_attn.o_proj", "attn_output"},
                                    {"self_attn.q_norm", "attn_q_norm"},
                                    {"self_attn.k_norm", "attn_k_norm"},
                                    {"mlp.gate_proj", "ffn_gate"},
                                    {"mlp.up_proj", "ffn_up"},
                                    {"mlp.down_proj", "ffn_down"}});
}

}  // namespace flexquant
