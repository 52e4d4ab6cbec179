#include <algorithm>
#include <array>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/formats/safetensors.h"
#include "common/formats/tensor_source.h"
#include "common/mapped_file.h"
#include "common/status_macros.h"

namespace flexquant {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

// Ids that generation_config.json ends at and config.json does not name: chat models often list end-of-turn only there.
absl::Status MergeGenerationConfig(const std::string& path, ModelConfig* config) {
  std::error_code error;
  if (!fs::exists(path, error)) {
    return absl::OkStatus();
  }
  FQ_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  constexpr size_t kMaxBytes = 1 << 20;
  const Json root = text.size() <= kMaxBytes ? Json::parse(text, nullptr, /*allow_exceptions=*/false) : Json(nullptr);
  if (!root.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": is not a JSON object of at most ", kMaxBytes, " bytes"));
  }
  const auto it = root.find("eos_token_id");
  if (it == root.end() || it->is_null()) {
    return absl::OkStatus();
  }
  const Json list = it->is_array() ? *it : Json::array({*it});
  for (const Json& item : list) {
    if (!item.is_number_unsigned() || item.get<uint64_t>() >= static_cast<uint64_t>(config->vocab_size)) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": eos_token_id holds ", item.dump(), "; allowed: 0 to ", config->vocab_size - 1));
    }
    const auto id = item.get<uint32_t>();
    if (std::count(config->eos_token_ids.begin(), config->eos_token_ids.end(), id) == 0) {
      config->eos_token_ids.push_back(id);
    }
  }
  return config->Validate();
}

absl::StatusOr<ModelConfig> ReadConfig(const std::string& folder) {
  const std::string path = absl::StrCat(folder, "/config.json");
  FQ_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  absl::StatusOr<ModelConfig> config = ModelConfig::FromJson(text);
  if (!config.ok()) {
    return absl::Status(config.status().code(), absl::StrCat(path, ": ", config.status().message()));
  }
  const Json root = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (root.contains("quantization_config") && !root["quantization_config"].is_null()) {
    return absl::UnimplementedError(absl::StrCat(
        path,
        ": has quantization_config; supported: folders of F32, F16 or BF16 weights (take the unquantised model)"));
  }
  FQ_RETURN_IF_ERROR(MergeGenerationConfig(absl::StrCat(folder, "/generation_config.json"), &*config));
  return config;
}

absl::StatusOr<StoredTensors> FindTensors(const SafetensorsModel& model, const ModelConfig& config,
                                          const std::string& folder) {
  StoredTensors tensors;
  for (const auto& [name, info] : model.tensors()) {
    // Tables that old writers kept; a tied head's copy is the embedding.
    if (absl::EndsWith(name, ".rotary_emb.inv_freq") || (config.tied_head && name == "lm_head.weight")) {
      continue;
    }
    StoredTensor stored;
    if (info.dtype == "F32") {
      stored.type = GgmlType::kF32;
    } else if (info.dtype == "F16") {
      stored.type = GgmlType::kF16;
    } else if (info.dtype == "BF16") {
      stored.type = GgmlType::kBF16;
    } else {
      return absl::InvalidArgumentError(absl::StrCat(folder, ": tensor ", name, " has dtype ", info.dtype,
                                                     "; supported: F32, F16, BF16 (take the unquantised model)"));
    }
    stored.shape = info.shape;
    stored.data = info.data;
    tensors.emplace(name, std::move(stored));
  }
  return tensors;
}

class HuggingFaceSource : public TensorSource {
 public:
  static absl::StatusOr<std::unique_ptr<ModelSource>> Open(const std::string& folder) {
    FQ_ASSIGN_OR_RETURN(ModelConfig config, ReadConfig(folder));
    FQ_ASSIGN_OR_RETURN(SafetensorsModel model, SafetensorsModel::Open(folder));
    FQ_ASSIGN_OR_RETURN(StoredTensors tensors, FindTensors(model, config, folder));
    if (config.name.empty()) {
      config.name = fs::absolute(folder).lexically_normal().filename().string();
    }
    std::unique_ptr<HuggingFaceSource> source(
        new HuggingFaceSource(folder, std::move(config), std::move(tensors), std::move(model)));
    FQ_RETURN_IF_ERROR(source->CheckTensors());
    return source;
  }

  absl::Status SaveTokenizer(const std::string& folder) const override {
    constexpr std::array<const char*, 5> kFiles = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
                                                   "generation_config.json", "chat_template.jinja"};
    std::error_code error;
    if (!fs::exists(fs::path(path()) / kFiles[0], error)) {
      return absl::NotFoundError(absl::StrCat(path(),
                                              ": has no tokenizer.json; make one with transformers' "
                                              "AutoTokenizer.from_pretrained(...).save_pretrained(...)"));
    }
    for (const char* name : kFiles) {
      if (!fs::exists(fs::path(path()) / name, error)) {
        continue;
      }
      FQ_ASSIGN_OR_RETURN(const std::string contents, ReadFile(absl::StrCat(path(), "/", name)));
      FQ_RETURN_IF_ERROR(WriteFile(absl::StrCat(folder, "/", name), contents));
    }
    return absl::OkStatus();
  }

  std::string Description() const override {
    return absl::StrCat("Hugging Face safetensors, ", model_.num_files(),
                        model_.num_files() == 1 ? " file, " : " files, ", CountTensors());
  }

 private:
  HuggingFaceSource(const std::string& folder, ModelConfig config, StoredTensors tensors, SafetensorsModel model)
      : TensorSource(folder, std::move(config), std::move(tensors)), model_(std::move(model)) {}

  SafetensorsModel model_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ModelSource>> OpenHuggingFaceSource(const std::string& folder) {
  return HuggingFaceSource::Open(folder);
}

}  // namespace flexquant
