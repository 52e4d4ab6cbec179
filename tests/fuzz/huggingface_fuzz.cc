// A Hugging Face folder: config.json, generation_config.json, model.safetensors, and an index of shards. The input is
// a byte of choices, then sections: config.json, generation_config.json, the index, the safetensors header or, if so
// chosen, the whole file.

#include <cstdint>
#include <filesystem>
#include <string>

#include "common/check.h"
#include "common/formats/safetensors.h"
#include "common/model_config.h"
#include "common/model_source.h"
#include "common/store/package_layout.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/fuzz_target.h"
#include "tests/fuzz/safetensors_text.h"
#include "tests/fuzz/scratch_folder.h"

namespace flexquant::fuzz {
namespace {

// Enough for the seeds' tensors.
constexpr size_t kDataBytes = 32768;

void ReadTensors(ModelSource& source) {
  for (const MatrixSpec& matrix : PackageMatrices(source.config())) {
    for (const SourcePart& part : matrix.parts) {
      (void)source.ReadTensor(part.name, part.rows, matrix.cols).ok();
    }
  }
  (void)source.ReferenceDtype();
  (void)source.Description();
}

void CheckConfig(const std::string& text) {
  const auto config = ModelConfig::FromJson(text);
  if (!config.ok()) {
    return;
  }
  FQ_CHECK(config->Validate().ok());
  const auto again = ModelConfig::FromJson(config->ToJson());
  FQ_CHECK(again.ok() && again->ToJson() == config->ToJson());
}

FQ_FUZZ_TARGET(huggingface, input) {
  static const ScratchFolder* const kFolder = new ScratchFolder();
  static const std::string* const kData = new std::string(kDataBytes, '\0');
  FuzzInput bytes(input);
  const uint8_t choices = bytes.Byte();
  const std::string config = bytes.Section();
  const std::string generation = bytes.Section();
  const std::string index = bytes.Section();
  const std::string weights = (choices & 1U) != 0 ? bytes.Rest() : SafetensorsWith(bytes.Section(), *kData);
  CheckConfig(config);
  const auto parsed =
      SafetensorsFile::Parse({reinterpret_cast<const uint8_t*>(weights.data()), weights.size()}, "model.safetensors");
  if (!parsed.ok() || !ModelConfig::FromJson(config).ok()) {
    return;
  }
  const auto write = [&](bool present, const char* name, const std::string& text) {
    if (present) {
      kFolder->Write(name, text);
    } else {
      std::filesystem::remove(kFolder->Path(name));
    }
  };
  write(true, "config.json", config);
  write((choices & 2U) != 0, "generation_config.json", generation);
  const bool sharded = (choices & 4U) != 0;
  write(sharded, "model.safetensors.index.json", index);
  write(!sharded, "model.safetensors", weights);
  write(sharded, "a.safetensors", weights);
  const auto source = OpenModelSource(kFolder->path());
  if (source.ok()) {
    ReadTensors(**source);
  }
}

}  // namespace
}  // namespace flexquant::fuzz
