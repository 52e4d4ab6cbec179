#include "common/store/package_layout.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace flexquant {
namespace {

std::string SourceName(int64_t layer, const char* rest) { return absl::StrCat("model.layers.", layer, ".", rest); }

void AddBlockMatrices(const ModelConfig& c, int64_t layer, std::vector<MatrixSpec>& out) {
  const std::string prefix = absl::StrCat("layers.", layer, ".");
  out.push_back({prefix + "qkv",
                 c.q_size() + 2 * c.kv_size(),
                 c.hidden_size,
                 {{SourceName(layer, "self_attn.q_proj.weight"), c.q_size()},
                  {SourceName(layer, "self_attn.k_proj.weight"), c.kv_size()},
                  {SourceName(layer, "self_attn.v_proj.weight"), c.kv_size()}}});
  out.push_back(
      {prefix + "o", c.hidden_size, c.q_size(), {{SourceName(layer, "self_attn.o_proj.weight"), c.hidden_size}}});
  out.push_back({prefix + "gate_up",
                 2 * c.intermediate_size,
                 c.hidden_size,
                 {{SourceName(layer, "mlp.gate_proj.weight"), c.intermediate_size},
                  {SourceName(layer, "mlp.up_proj.weight"), c.intermediate_size}}});
  out.push_back({prefix + "down",
                 c.hidden_size,
                 c.intermediate_size,
                 {{SourceName(layer, "mlp.down_proj.weight"), c.hidden_size}}});
}

void AddBlockVectors(const ModelConfig& c, int64_t layer, std::vector<VectorSpec>& out) {
  const std::string prefix = absl::StrCat("layers.", layer, ".");
  const auto add = [&](const char* name, std::vector<std::pair<const char*, int64_t>> parts) {
    VectorSpec spec{prefix + name, 0, {}};
    for (const auto& [source, size] : parts) {
      spec.parts.push_back({SourceName(layer, source), size});
      spec.size += size;
    }
    out.push_back(std::move(spec));
  };
  add("attention_norm", {{"input_layernorm.weight", c.hidden_size}});
  add("mlp_norm", {{"post_attention_layernorm.weight", c.hidden_size}});
  if (c.qk_norm) {
    add("q_norm", {{"self_attn.q_norm.weight", c.head_dim}});
    add("k_norm", {{"self_attn.k_norm.weight", c.head_dim}});
  }
  if (c.qkv_bias) {
    add("qkv.bias", {{"self_attn.q_proj.bias", c.q_size()},
                     {"self_attn.k_proj.bias", c.kv_size()},
                     {"self_attn.v_proj.bias", c.kv_size()}});
  }
  if (c.o_bias) {
    add("o.bias", {{"self_attn.o_proj.bias", c.hidden_size}});
  }
  if (c.mlp_bias) {
    add("gate_up.bias", {{"mlp.gate_proj.bias", c.intermediate_size}, {"mlp.up_proj.bias", c.intermediate_size}});
    add("down.bias", {{"mlp.down_proj.bias", c.hidden_size}});
  }
}

uint64_t ElementBytes(const std::string& dtype) { return dtype == "U8" ? 1 : dtype == "F32" ? 4 : 2; }

}  // namespace

std::vector<MatrixSpec> PackageMatrices(const ModelConfig& config) {
  std::vector<MatrixSpec> out;
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    AddBlockMatrices(config, layer, out);
  }
  if (!config.tied_head) {
    out.push_back({"lm_head", config.vocab_size, config.hidden_size, {{"lm_head.weight", config.vocab_size}}});
  }
  out.push_back(
      {"embedding", config.vocab_size, config.hidden_size, {{"model.embed_tokens.weight", config.vocab_size}}});
  return out;
}

std::vector<VectorSpec> PackageVectors(const ModelConfig& config) {
  std::vector<VectorSpec> out;
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    AddBlockVectors(config, layer, out);
  }
  out.push_back({"final_norm", config.hidden_size, {{"model.norm.weight", config.hidden_size}}});
  return out;
}

std::vector<PackageTensor> PackageTensors(const ModelConfig& config, int64_t group_size, bool has_reference,
                                          Dtype reference_dtype) {
  std::vector<PackageTensor> out;
  uint64_t offset = 0;
  const auto add = [&](std::string name, const char* dtype, std::vector<int64_t> shape) {
    PackageTensor tensor{std::move(name), dtype, std::move(shape), 0, offset};
    tensor.bytes = ElementBytes(tensor.dtype);
    for (const int64_t size : tensor.shape) {
      tensor.bytes *= static_cast<uint64_t>(size);
    }
    offset += tensor.bytes;
    out.push_back(std::move(tensor));
  };
  const std::vector<MatrixSpec> matrices = PackageMatrices(config);
  for (const MatrixSpec& spec : matrices) {
    NestedMatrix shape;
    shape.rows = spec.rows;
    shape.cols = spec.cols;
    shape.group_size = group_size;
    const int64_t tiles = shape.tiles();
    const int64_t units = shape.units();
    add(spec.name + ".base3", "U8", {tiles, units, 3, kPlaneWordBytes});
    for (const char* suffix : {".bit4", ".bit5", ".bit6"}) {
      add(spec.name + suffix, "U8", {tiles, units, kPlaneWordBytes});
    }
    add(spec.name + ".bits78", "U8", {tiles, units, 2, kPlaneWordBytes});
    add(spec.name + ".scales", "F16", {tiles, shape.groups(), 2 * kTileRows});
  }
  for (const VectorSpec& spec : PackageVectors(config)) {
    add(spec.name, "F32", {spec.size});
  }
  if (has_reference) {
    for (const MatrixSpec& spec : matrices) {
      add(spec.name + kReferenceSuffix, reference_dtype == Dtype::kF32 ? "F32" : "BF16", {spec.rows, spec.cols});
    }
  }
  return out;
}

}  // namespace flexquant
