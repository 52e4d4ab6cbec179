#ifndef FLEXQUANT_TESTS_ACCURACY_MODEL_UNDER_TEST_H_
#define FLEXQUANT_TESTS_ACCURACY_MODEL_UNDER_TEST_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/store/convert.h"
#include "common/store/model_store.h"
#include "common/tokenizer/tokenizer.h"
#include "executor/model_runner.h"

namespace flexquant {

// Paths of data that is not part of the repository; nullopt where it is absent.
// stories260K's folder: FLEXQUANT_TEST_DATA/../models, else ../shared/models beside the source.
std::optional<std::string> FindStoriesFolder();
// File `name` of the shared data's text folder.
std::optional<std::string> FindText(const std::string& name);
// SmolLM2-135M-Instruct as GGUF: FLEXQUANT_SMOLLM2_GGUF, else the file that deploy/quickstart.sh keeps in its cache
// (FLEXQUANT_CACHE, else .cache of the source).
std::optional<std::string> FindSmolLm2();

std::string ReadFileOrDie(const std::string& path);

// Mean and count of negative log-likelihoods, in nats.
struct Score {
  double total_nats = 0;
  int64_t num_tokens = 0;
  double Perplexity() const;
};

// A model converted with its reference into a temporary folder, and a CPU runner on it. Not thread-safe.
class ModelUnderTest {
 public:
  static absl::StatusOr<std::unique_ptr<ModelUnderTest>> Create(const std::string& source_path, int64_t group_size);
  ~ModelUnderTest();

  const ConvertReport& report() const { return report_; }
  const ModelStore& store() const { return *store_; }
  const Tokenizer& tokenizer() const { return *tokenizer_; }

  // Logits [ids, vocab_size] of every position at uniform `bits`.
  std::vector<std::vector<float>> Logits(const std::vector<uint32_t>& ids, int bits);
  // Log-likelihood of ids[1..] given what comes before each, at uniform `bits`; added to `score`.
  void AddScore(const std::vector<uint32_t>& ids, int bits, Score* score);
  // Greedy continuation of `prompt` by `count` tokens, sampled by the runner.
  std::vector<uint32_t> Greedy(const std::vector<uint32_t>& prompt, int bits, int count);

 private:
  ModelUnderTest() = default;
  // Runs one sequence of this step and returns its output, valid until the next step.
  const executor::SequenceOutput& RunStep(executor::SequenceInput input, int bits);

  std::string folder_;
  ConvertReport report_;
  std::unique_ptr<ModelStore> store_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<executor::ModelRunner> runner_;
  std::vector<uint32_t> block_table_;
  executor::StepOutput output_;
};

}  // namespace flexquant

#endif  // FLEXQUANT_TESTS_ACCURACY_MODEL_UNDER_TEST_H_
