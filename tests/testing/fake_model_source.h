#ifndef FLEXQUANT_TESTS_TESTING_FAKE_MODEL_SOURCE_H_
#define FLEXQUANT_TESTS_TESTING_FAKE_MODEL_SOURCE_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "common/model_source.h"

namespace flexquant {

// A model in memory: every tensor `config` asks for, random (seeded) unless replaced. Not thread-safe.
class FakeModelSource : public ModelSource {
 public:
  explicit FakeModelSource(const ModelConfig& config, uint32_t seed = 1);

  // A Llama of two layers that tests can afford: hidden 64, intermediate 96, 4 heads / 2 KV heads of 16, vocabulary
  // 100, tied head.
  static ModelConfig TinyConfig();

  std::map<std::string, std::vector<float>>& tensors() { return tensors_; }
  void set_reference_dtype(Dtype dtype) { reference_dtype_ = dtype; }

  const ModelConfig& config() const override { return config_; }
  bool HasTensor(const std::string& name) const override { return tensors_.count(name) != 0; }
  absl::StatusOr<std::vector<float>> ReadTensor(const std::string& name, int64_t rows, int64_t cols) override;
  Dtype ReferenceDtype() const override { return reference_dtype_; }
  // Writes tokenizer.json with "{}".
  absl::Status SaveTokenizer(const std::string& folder) const override;
  std::string Description() const override { return "fake"; }

 private:
  ModelConfig config_;
  Dtype reference_dtype_ = Dtype::kF32;
  std::map<std::string, std::vector<float>> tensors_;
};

}  // namespace flexquant

#endif  // FLEXQUANT_TESTS_TESTING_FAKE_MODEL_SOURCE_H_
