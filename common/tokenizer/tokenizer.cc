#include "common/tokenizer/tokenizer.h"

#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/formats/gguf.h"
#include "common/mapped_file.h"
#include "common/status_macros.h"
#include "common/tokenizer/bpe_tokenizer.h"
#include "common/tokenizer/tokenizer_spec.h"
#include "common/tokenizer/utf8.h"

namespace flexquant {
namespace {

namespace fs = std::filesystem;

// The largest published tokenizer.json has 35 MB; parsed it takes ten times its size.
constexpr uintmax_t kMaxJsonBytes = 256u << 20;

bool IsFile(const fs::path& path) {
  std::error_code error;
  return fs::is_regular_file(path, error);
}

absl::StatusOr<std::string> ReadSmallFile(const fs::path& path) {
  std::error_code error;
  const uintmax_t size = fs::file_size(path, error);
  if (!error && size > kMaxJsonBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(path.string(), " has ", size, " bytes; at most ", kMaxJsonBytes, " are allowed"));
  }
  return ReadFile(path.string());
}

absl::StatusOr<TokenizerSpec> ReadHuggingFace(const fs::path& path) {
  FQ_ASSIGN_OR_RETURN(const std::string tokenizer, ReadSmallFile(path));
  std::string config;
  if (const fs::path beside = path.parent_path() / "tokenizer_config.json"; IsFile(beside)) {
    FQ_ASSIGN_OR_RETURN(config, ReadSmallFile(beside));
  }
  FQ_ASSIGN_OR_RETURN(TokenizerSpec spec, SpecFromHuggingFace(tokenizer, config, path.string()));
  // Newer folders keep the template in a file of its own, which then counts.
  if (const fs::path beside = path.parent_path() / "chat_template.jinja"; IsFile(beside)) {
    FQ_ASSIGN_OR_RETURN(spec.chat_template, ReadSmallFile(beside));
  }
  return spec;
}

absl::StatusOr<fs::path> FindFile(const fs::path& path) {
  std::error_code error;
  if (!fs::is_directory(path, error)) {
    if (IsFile(path)) return path;
    return absl::NotFoundError(absl::StrCat("no tokenizer at '", path.string(),
                                            "'; give a folder with tokenizer.gguf or tokenizer.json, or such a file"));
  }
  for (const char* name : {"tokenizer.gguf", "tokenizer.json"}) {
    if (IsFile(path / name)) return path / name;
  }
  return absl::NotFoundError(absl::StrCat("folder '", path.string(),
                                          "' holds neither tokenizer.gguf nor tokenizer.json; convert the model again "
                                          "from a source with its tokenizer"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Load(const std::string& path) {
  FQ_ASSIGN_OR_RETURN(const fs::path file, FindFile(path));
  TokenizerSpec spec;
  if (file.extension() == ".gguf") {
    FQ_ASSIGN_OR_RETURN(const GgufFile gguf, GgufFile::Open(file.string()));
    FQ_ASSIGN_OR_RETURN(spec, SpecFromGguf(gguf));
  } else {
    FQ_ASSIGN_OR_RETURN(spec, ReadHuggingFace(file));
  }
  FQ_ASSIGN_OR_RETURN(std::unique_ptr<Tokenizer> tokenizer, BpeTokenizer::Create(std::move(spec)));
  return tokenizer;
}

IncrementalDetokenizer::IncrementalDetokenizer(const Tokenizer& tokenizer, bool continues_text)
    : tokenizer_(&tokenizer), drop_leading_space_(!continues_text) {}

std::string IncrementalDetokenizer::Append(uint32_t id) {
  std::string bytes = tokenizer_->TokenBytes(id);
  if (drop_leading_space_ && !bytes.empty()) {
    drop_leading_space_ = false;
    // Decode() knows whether the model drops it.
    if (bytes[0] == ' ' && tokenizer_->Decode({id}) != ReplaceInvalidUtf8(bytes)) bytes.erase(0, 1);
  }
  pending_.append(bytes);
  return TakeCompleteUtf8(&pending_);
}

std::string IncrementalDetokenizer::Finish() {
  std::string rest = ReplaceInvalidUtf8(pending_);
  pending_.clear();
  return rest;
}

}  // namespace flexquant
