#include "common/model_source.h"

#include <algorithm>
#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/formats/llama2c.h"
#include "common/formats/tensor_source.h"
#include "common/mapped_file.h"
#include "common/status_macros.h"

namespace flexquant {
namespace {

constexpr absl::string_view kSupported =
    "supported: a GGUF file, a Hugging Face folder (config.json and safetensors), a llama2.c checkpoint (*.bin)";

bool BeginsWith(absl::Span<const uint8_t> bytes, absl::string_view magic) {
  return bytes.size() >= magic.size() && std::equal(magic.begin(), magic.end(), bytes.begin());
}

absl::StatusOr<std::unique_ptr<ModelSource>> OpenFolder(const std::string& path) {
  std::error_code error;
  const std::filesystem::path folder(path);
  if (std::filesystem::exists(folder / "flexquant.json", error)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": is a converted model already; give the model it was made of"));
  }
  if (!std::filesystem::exists(folder / "config.json", error)) {
    return absl::NotFoundError(absl::StrCat(path, ": has no config.json; ", kSupported));
  }
  if (!std::filesystem::exists(folder / "model.safetensors", error) &&
      !std::filesystem::exists(folder / "model.safetensors.index.json", error)) {
    return absl::NotFoundError(absl::StrCat(path,
                                            ": has neither model.safetensors nor model.safetensors.index.json"
                                            " (other weights, such as pytorch_model.bin, are not read; save the model "
                                            "with transformers' save_pretrained)"));
  }
  return OpenHuggingFaceSource(path);
}

}  // namespace

absl::StatusOr<std::unique_ptr<ModelSource>> OpenModelSource(const std::string& path,
                                                             const std::string& tokenizer_path) {
  std::error_code error;
  const bool folder = std::filesystem::is_directory(path, error);
  bool gguf = false;
  if (!folder) {
    FQ_ASSIGN_OR_RETURN(const MappedFile file, MappedFile::Open(path));
    gguf = BeginsWith(file.bytes(), "GGUF") || absl::EndsWith(path, ".gguf");
  }
  if (!folder && !gguf && absl::EndsWith(path, ".bin")) {
    return OpenLlama2cSource(path, tokenizer_path);
  }
  if (!folder && !gguf) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": is not a model that can be read; ", kSupported));
  }
  if (!tokenizer_path.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("tokenizer ", tokenizer_path, " is given for ", path, ", which has its own; leave it out"));
  }
  return folder ? OpenFolder(path) : OpenGgufSource(path);
}

}  // namespace flexquant
