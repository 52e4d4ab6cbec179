#include "common/formats/tensor_source.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/formats/ggml_dequantize.h"
#include "common/half.h"
#include "common/status_macros.h"

namespace flexquant {
namespace {

struct ExpectedTensor {
  std::string name;
  int64_t rows;  // 0 = a vector
  int64_t cols;
};

void AddLinear(const std::string& name, int64_t rows, int64_t cols, bool bias, std::vector<ExpectedTensor>* out) {
  out->push_back({name + ".weight", rows, cols});
  if (bias) {
    out->push_back({name + ".bias", 0, rows});
  }
}

std::vector<ExpectedTensor> ExpectedTensors(const ModelConfig& config) {
  const int64_t hidden = config.hidden_size;
  std::vector<ExpectedTensor> out = {{"model.embed_tokens.weight", config.vocab_size, hidden},
                                     {"model.norm.weight", 0, hidden}};
  if (!config.tied_head) {
    out.push_back({"lm_head.weight", config.vocab_size, hidden});
  }
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    const std::string block = absl::StrCat("model.layers.", layer, ".");
    out.push_back({block + "input_layernorm.weight", 0, hidden});
    out.push_back({block + "post_attention_layernorm.weight", 0, hidden});
    AddLinear(block + "self_attn.q_proj", config.q_size(), hidden, config.qkv_bias, &out);
    AddLinear(block + "self_attn.k_proj", config.kv_size(), hidden, config.qkv_bias, &out);
    AddLinear(block + "self_attn.v_proj", config.kv_size(), hidden, config.qkv_bias, &out);
    AddLinear(block + "self_attn.o_proj", hidden, config.q_size(), config.o_bias, &out);
    AddLinear(block + "mlp.gate_proj", config.intermediate_size, hidden, config.mlp_bias, &out);
    AddLinear(block + "mlp.up_proj", config.intermediate_size, hidden, config.mlp_bias, &out);
    AddLinear(block + "mlp.down_proj", hidden, config.intermediate_size, config.mlp_bias, &out);
    if (config.qk_norm) {
      out.push_back({block + "self_attn.q_norm.weight", 0, config.head_dim});
      out.push_back({block + "self_attn.k_norm.weight", 0, config.head_dim});
    }
  }
  return out;
}

std::string ShapeText(const std::vector<int64_t>& shape) { return absl::StrCat("[", absl::StrJoin(shape, ", "), "]"); }

bool AllFinite(absl::Span<const float> values) {
  // Without a branch in the loop the compiler makes it wide.
  uint32_t bad = 0;
  for (const float value : values) {
    bad |= (std::bit_cast<uint32_t>(value) & 0x7F800000U) == 0x7F800000U ? 1U : 0U;
  }
  return bad == 0;
}

// Rows of `width` floats: neighbours (2i, 2i + 1) of each head become (i, i + head_dim / 2).
std::vector<float> Deinterleave(const std::vector<float>& values, int64_t head_dim, int64_t width) {
  std::vector<float> out(values.size());
  const int64_t rows = static_cast<int64_t>(values.size()) / width;
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t within = row % head_dim;
    const int64_t half = within / (head_dim / 2);
    const int64_t from = row - within + 2 * (within % (head_dim / 2)) + half;
    std::copy_n(values.begin() + from * width, width, out.begin() + row * width);
  }
  return out;
}

// Gives a tensor's whole pages back after use; without this a conversion's resident memory grows to the size of the
// source. They are clean pages of a file mapping, so reading them again finds the same bytes.
void ReleasePages(absl::Span<const uint8_t> data) {
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto begin = (reinterpret_cast<uintptr_t>(data.data()) + page - 1) / page * page;
  const auto end = reinterpret_cast<uintptr_t>(data.data() + data.size()) / page * page;
  if (begin < end) {
    madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
  }
}

bool ExactInBfloat16(const StoredTensor& tensor) {
  if (tensor.type == GgmlType::kBF16) {
    return true;
  }
  if (tensor.type != GgmlType::kF32 && tensor.type != GgmlType::kF16) {
    return false;
  }
  constexpr size_t kChunk = 4096;
  const size_t bytes = tensor.type == GgmlType::kF32 ? 4 : 2;
  std::vector<float> values(kChunk);
  for (size_t begin = 0; begin < tensor.data.size(); begin += kChunk * bytes) {
    const auto data = tensor.data.subspan(begin, kChunk * bytes);
    const auto chunk = absl::MakeSpan(values.data(), data.size() / bytes);
    GgmlDequantize(tensor.type, data, chunk);
    for (const float value : chunk) {
      if ((std::bit_cast<uint32_t>(value) & 0xFFFFU) != 0) {
        return false;
      }
    }
  }
  return true;
}

}  // namespace

absl::StatusOr<std::vector<float>> TensorSource::ReadTensor(const std::string& name, int64_t rows, int64_t cols) {
  const auto it = tensors_.find(name);
  if (it == tensors_.end()) {
    return absl::NotFoundError(absl::StrCat(path_, ": tensor ", name, " is missing"));
  }
  const StoredTensor& tensor = it->second;
  const bool fits =
      tensor.shape == std::vector<int64_t>{rows, cols} || (rows == 1 && tensor.shape == std::vector<int64_t>{cols});
  if (!fits) {
    return absl::InvalidArgumentError(absl::StrCat(path_, ": tensor ", name, " has shape ", ShapeText(tensor.shape),
                                                   "; needed: [", rows, ", ", cols, "]"));
  }
  std::vector<float> values(static_cast<size_t>(rows) * static_cast<size_t>(cols));
  GgmlDequantize(tensor.type, tensor.data, absl::MakeSpan(values));
  ReleasePages(tensor.data);
  if (!AllFinite(values)) {
    return absl::DataLossError(
        absl::StrCat(path_, ": tensor ", name, " holds NaN or infinite values (the file is corrupt; fetch it again)"));
  }
  if (tensor.interleaved_head_dim > 0) {
    return Deinterleave(values, tensor.interleaved_head_dim, tensor.shape.size() == 2 ? cols : 1);
  }
  return values;
}

Dtype TensorSource::ReferenceDtype() const {
  if (!reference_dtype_.has_value()) {
    reference_dtype_ = Dtype::kBF16;
    for (const auto& [name, tensor] : tensors_) {
      const bool exact = ExactInBfloat16(tensor);
      ReleasePages(tensor.data);
      if (!exact) {
        reference_dtype_ = Dtype::kF32;
        break;
      }
    }
  }
  return *reference_dtype_;
}

absl::Status TensorSource::CheckTensors() const {
  std::set<std::string> expected;
  for (const ExpectedTensor& wanted : ExpectedTensors(config_)) {
    const auto it = tensors_.find(wanted.name);
    if (it == tensors_.end()) {
      return absl::DataLossError(absl::StrCat(path_, ": tensor ", wanted.name,
                                              " is missing (the file is incomplete, or is not what its config says)"));
    }
    const std::vector<int64_t> shape =
        wanted.rows == 0 ? std::vector<int64_t>{wanted.cols} : std::vector<int64_t>{wanted.rows, wanted.cols};
    if (it->second.shape != shape) {
      return absl::InvalidArgumentError(absl::StrCat(path_, ": tensor ", wanted.name, " has shape ",
                                                     ShapeText(it->second.shape), "; its config needs ",
                                                     ShapeText(shape)));
    }
    expected.insert(wanted.name);
  }
  for (const auto& [name, tensor] : tensors_) {
    if (absl::StartsWith(name, "model.layers.") && expected.count(name) == 0) {
      return absl::InvalidArgumentError(absl::StrCat(path_, ": tensor ", name, " has no place in a ", config_.family,
                                                     " model of ", config_.num_layers, " blocks with its config"));
    }
  }
  return absl::OkStatus();
}

std::string TensorSource::CountTensors() const {
  std::map<std::string, int> counts;
  for (const auto& [name, tensor] : tensors_) {
    ++counts[FindGgmlType(static_cast<uint32_t>(tensor.type))->name];
  }
  return absl::StrCat(tensors_.size(), " tensors (", absl::StrJoin(counts, ", ", absl::PairFormatter(": ")), ")");
}

}  // namespace flexquant
