#include "tests/testing/fake_model_source.h"

#include <cmath>
#include <random>

#include "absl/strings/str_cat.h"
#include "common/mapped_file.h"
#include "common/store/package_layout.h"

namespace flexquant {

ModelConfig FakeModelSource::TinyConfig() {
  ModelConfig config;
  config.family = "llama";
  config.name = "tiny";
  config.hidden_size = 64;
  config.intermediate_size = 96;
  config.num_layers = 2;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 16;
  config.vocab_size = 100;
  config.max_context = 128;
  config.tied_head = true;
  config.eos_token_ids = {2};
  config.bos_token_id = 1;
  return config;
}

FakeModelSource::FakeModelSource(const ModelConfig& config, uint32_t seed) : config_(config) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  for (const MatrixSpec& spec : PackageMatrices(config)) {
    for (const SourcePart& part : spec.parts) {
      auto& tensor = tensors_[part.name];
      const float deviation = 1.0F / std::sqrt(static_cast<float>(spec.cols));
      for (int64_t i = 0; i < part.rows * spec.cols; ++i) {
        tensor.push_back(normal(generator) * deviation);
      }
    }
  }
  for (const VectorSpec& spec : PackageVectors(config)) {
    const bool norm = spec.name.find("norm") != std::string::npos;
    for (const SourcePart& part : spec.parts) {
      auto& tensor = tensors_[part.name];
      for (int64_t i = 0; i < part.rows; ++i) {
        tensor.push_back((norm ? 1.0F : 0.0F) + 0.1F * normal(generator));
      }
    }
  }
}

absl::StatusOr<std::vector<float>> FakeModelSource::ReadTensor(const std::string& name, int64_t rows, int64_t cols) {
  const auto it = tensors_.find(name);
  if (it == tensors_.end()) {
    return absl::NotFoundError(absl::StrCat("no tensor ", name));
  }
  if (it->second.size() != static_cast<size_t>(rows * cols)) {
    return absl::InvalidArgumentError(absl::StrCat("tensor ", name, " has another shape"));
  }
  return it->second;
}

absl::Status FakeModelSource::SaveTokenizer(const std::string& folder) const {
  return WriteFile(folder + "/tokenizer.json", "{}");
}

}  // namespace flexquant
