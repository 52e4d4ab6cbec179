// A GGUF file: its parser, every getter on every key, the model's configuration, its tensors, its tokenizer.

#include <memory>
#include <string>
#include <vector>

#include "common/check.h"
#include "common/formats/gguf.h"
#include "common/formats/gguf_config.h"
#include "common/formats/tensor_source.h"
#include "common/store/package_layout.h"
#include "common/tokenizer/bpe_tokenizer.h"
#include "common/tokenizer/tokenizer_spec.h"
#include "tests/fuzz/fuzz_target.h"
#include "tests/fuzz/scratch_folder.h"

namespace flexquant::fuzz {
namespace {

void ReadKeys(const GgufFile& file) {
  for (const auto& [key, value] : file.metadata()) {
    (void)file.GetString(key).ok();
    (void)file.GetUint64(key).ok();
    (void)file.GetInt64(key).ok();
    (void)file.GetDouble(key).ok();
    (void)file.GetBool(key).ok();
    (void)file.GetStringArray(key).ok();
    (void)file.GetFloatArray(key).ok();
    (void)file.GetIntArray(key).ok();
  }
}

void ReadTokenizer(const GgufFile& file) {
  absl::StatusOr<TokenizerSpec> spec = SpecFromGguf(file);
  if (!spec.ok()) {
    return;
  }
  const auto tokenizer = BpeTokenizer::Create(*std::move(spec));
  if (!tokenizer.ok()) {
    return;
  }
  const auto ids = (*tokenizer)->Encode("hello the  <s> \u65e5x", {.add_special = true, .parse_special = true});
  if (ids.ok()) {
    for (const uint32_t id : *ids) {
      FQ_CHECK(id < (*tokenizer)->vocab_size());
    }
    FQ_CHECK(FindInvalidUtf8((*tokenizer)->Decode(*ids, true)) == -1);
  }
}

// Values of every tensor that the package would be made of.
void ReadTensors(ModelSource& source) {
  const ModelConfig& config = source.config();
  for (const MatrixSpec& matrix : PackageMatrices(config)) {
    for (const SourcePart& part : matrix.parts) {
      const auto values = source.ReadTensor(part.name, part.rows, matrix.cols);
      FQ_CHECK(!values.ok() || values->size() == static_cast<size_t>(part.rows * matrix.cols));
    }
  }
  for (const VectorSpec& vector : PackageVectors(config)) {
    for (const SourcePart& part : vector.parts) {
      (void)source.ReadTensor(part.name, 1, part.rows).ok();
    }
  }
  (void)source.ReferenceDtype();
  (void)source.Description();
}

FQ_FUZZ_TARGET(gguf, input) {
  const auto file = GgufFile::Parse(input, "model.gguf");
  if (!file.ok()) {
    return;
  }
  ReadKeys(*file);
  ReadTokenizer(*file);
  const auto config = ReadGgufConfig(*file);
  if (!config.ok()) {
    return;
  }
  FQ_CHECK(config->Validate().ok());
  static const ScratchFolder* const kFolder = new ScratchFolder();
  kFolder->Write("model.gguf", std::string(reinterpret_cast<const char*>(input.data()), input.size()));
  const auto source = OpenGgufSource(kFolder->Path("model.gguf"));
  if (source.ok()) {
    ReadTensors(**source);
    (void)(*source)->SaveTokenizer(kFolder->path()).ok();
  }
}

}  // namespace
}  // namespace flexquant::fuzz
