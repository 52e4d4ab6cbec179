#include "common/formats/safetensors.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "common/formats/byte_cursor.h"
#include "common/status_macros.h"

namespace flexquant {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxDimensions = 8;
constexpr int64_t kMaxElements = int64_t{1} << 46;

struct DtypeSize {
  absl::string_view name;
  int64_t bytes;
};

constexpr std::array<DtypeSize, 14> kDtypes = {{{"F64", 8},
                                                {"F32", 4},
                                                {"F16", 2},
                                                {"BF16", 2},
                                                {"I64", 8},
                                                {"I32", 4},
                                                {"I16", 2},
                                                {"I8", 1},
                                                {"U64", 8},
                                                {"U32", 4},
                                                {"U16", 2},
                                                {"U8", 1},
                                                {"BOOL", 1},
                                                {"F8_E4M3", 1}}};

// 0 for a dtype that is not known.
int64_t DtypeBytes(absl::string_view dtype) {
  for (const DtypeSize& known : kDtypes) {
    if (known.name == dtype) {
      return known.bytes;
    }
  }
  return 0;
}

// A non-negative integer of at most 2^63 - 1.
bool ReadCount(const Json& value, int64_t* out) {
  if (!value.is_number_unsigned() || value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) {
    return false;
  }
  *out = value.get<int64_t>();
  return true;
}

// Watches the parser: a key repeated within one object (of which the last would win silently), and nesting deeper than
// any header has.
class HeaderWatch {
 public:
  bool operator()(int depth, Json::parse_event_t event, Json& parsed) {
    if (depth > kMaxDepth) {
      too_deep_ = true;
      return false;
    }
    if (event == Json::parse_event_t::object_start) {
      keys_.emplace_back();
    } else if (event == Json::parse_event_t::object_end && !keys_.empty()) {
      keys_.pop_back();
    } else if (event == Json::parse_event_t::key && !keys_.empty()) {
      const auto& key = parsed.get_ref<const std::string&>();
      if (!keys_.back().insert(key).second && duplicate_.empty()) {
        duplicate_ = key;
      }
    }
    return true;
  }

  const std::string& duplicate() const { return duplicate_; }
  bool too_deep() const { return too_deep_; }

 private:
  static constexpr int kMaxDepth = 4;

  std::vector<std::set<std::string>> keys_;
  std::string duplicate_;
  bool too_deep_ = false;
};

class HeaderReader {
 public:
  HeaderReader(absl::Span<const uint8_t> data, const std::string& path) : data_(data), path_(path) {}

  absl::Status Read(const Json& header, std::map<std::string, SafetensorInfo>* tensors) {
    for (const auto& [name, entry] : header.items()) {
      if (name == "__metadata__") {
        continue;
      }
      SafetensorInfo info;
      FQ_RETURN_IF_ERROR(ReadTensor(name, entry, &info));
      tensors->emplace(name, std::move(info));
    }
    return CheckCover(*tensors);
  }

 private:
  absl::Status Invalid(const std::string& name, absl::string_view what) const {
    return absl::InvalidArgumentError(absl::StrCat(path_, ": tensor ", name, " ", what));
  }

  absl::Status ReadTensor(const std::string& name, const Json& entry, SafetensorInfo* info) const {
    if (!entry.is_object() || !entry.contains("dtype") || !entry["dtype"].is_string() || !entry.contains("shape") ||
        !entry["shape"].is_array() || !entry.contains("data_offsets") || !entry["data_offsets"].is_array() ||
        entry["data_offsets"].size() != 2) {
      return Invalid(name, "must be an object with dtype, shape and two data_offsets");
    }
    info->dtype = entry["dtype"].get<std::string>();
    const int64_t element_bytes = DtypeBytes(info->dtype);
    if (element_bytes == 0) {
      return Invalid(name, absl::StrCat("has unknown dtype \"", info->dtype, "\""));
    }
    if (entry["shape"].size() > kMaxDimensions) {
      return Invalid(name, absl::StrCat("has ", entry["shape"].size(), " dimensions; allowed: 0 to ", kMaxDimensions));
    }
    int64_t elements = 1;
    for (const Json& dimension : entry["shape"]) {
      int64_t size = 0;
      if (!ReadCount(dimension, &size) || size > kMaxElements / std::max<int64_t>(elements, 1)) {
        return Invalid(name, absl::StrCat("has dimension ", dimension.dump(), "; allowed: integers from 0, at most ",
                                          kMaxElements, " elements in all"));
      }
      elements *= size;
      info->shape.push_back(size);
    }
    int64_t begin = 0;
    int64_t end = 0;
    if (!ReadCount(entry["data_offsets"][0], &begin) || !ReadCount(entry["data_offsets"][1], &end) || begin > end) {
      return Invalid(name, absl::StrCat("has data_offsets ", entry["data_offsets"].dump(),
                                        "; needed: two integers, the first not above the second"));
    }
    if (end - begin != elements * element_bytes) {
      return Invalid(name,
                     absl::StrCat("has ", end - begin, " bytes; its shape and dtype need ", elements * element_bytes));
    }
    if (static_cast<uint64_t>(end) > data_.size()) {
      return absl::DataLossError(absl::StrCat(path_, ": tensor ", name, " ends at ", end, " of ", data_.size(),
                                              " bytes of data (the file is cut short; fetch it again)"));
    }
    info->data = data_.subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
    return absl::OkStatus();
  }

  // Overlaps are corruption. Gaps are not: writers may align tensors.
  absl::Status CheckCover(const std::map<std::string, SafetensorInfo>& tensors) const {
    std::vector<std::pair<const uint8_t*, const std::string*>> begins;
    for (const auto& [name, info] : tensors) {
      if (!info.data.empty()) {
        begins.emplace_back(info.data.data(), &name);
      }
    }
    std::sort(begins.begin(), begins.end());
    for (size_t i = 1; i < begins.size(); ++i) {
      const SafetensorInfo& previous = tensors.at(*begins[i - 1].second);
      if (previous.data.data() + previous.data.size() > begins[i].first) {
        return absl::DataLossError(
            absl::StrCat(path_, ": tensors ", *begins[i - 1].second, " and ", *begins[i].second, " overlap"));
      }
    }
    return absl::OkStatus();
  }

  absl::Span<const uint8_t> data_;
  const std::string& path_;
};

absl::Status ReadMetadata(const Json& header, const std::string& path, std::map<std::string, std::string>* metadata) {
  const auto it = header.find("__metadata__");
  if (it == header.end()) {
    return absl::OkStatus();
  }
  if (!it->is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": __metadata__ must be an object of strings"));
  }
  for (const auto& [key, value] : it->items()) {
    if (!value.is_string()) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": __metadata__ ", key, " must be a string"));
    }
    metadata->emplace(key, value.get<std::string>());
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<SafetensorsFile> SafetensorsFile::Open(const std::string& path) {
  FQ_ASSIGN_OR_RETURN(MappedFile mapped, MappedFile::Open(path));
  FQ_ASSIGN_OR_RETURN(SafetensorsFile file, Parse(mapped.bytes(), path));
  file.file_ = std::move(mapped);
  return file;
}

absl::StatusOr<SafetensorsFile> SafetensorsFile::Parse(absl::Span<const uint8_t> bytes, std::string path) {
  SafetensorsFile file;
  file.path_ = std::move(path);
  ByteCursor cursor(bytes);
  uint64_t header_bytes = 0;
  absl::Span<const uint8_t> text;
  if (!cursor.Read(&header_bytes)) {
    return absl::DataLossError(absl::StrCat(file.path_, ": has ", bytes.size(), " bytes; a safetensors file has more"));
  }
  if (header_bytes > kMaxHeaderBytes) {
    return absl::InvalidArgumentError(absl::StrCat(file.path_, ": claims a header of ", header_bytes,
                                                   " bytes; allowed: 2 to ", kMaxHeaderBytes,
                                                   " (is it a safetensors file?)"));
  }
  if (!cursor.ReadBytes(header_bytes, &text)) {
    return absl::DataLossError(absl::StrCat(file.path_, ": ends within its header of ", header_bytes,
                                            " bytes (the file is cut short; fetch it again)"));
  }
  HeaderWatch watch;
  const Json header = Json::parse(
      text.begin(), text.end(),
      [&watch](int depth, Json::parse_event_t event, Json& parsed) { return watch(depth, event, parsed); },
      /*allow_exceptions=*/false);
  if (!header.is_object() || watch.too_deep()) {
    return absl::InvalidArgumentError(absl::StrCat(file.path_, ": the header is not a JSON object of tensors"));
  }
  if (!watch.duplicate().empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(file.path_, ": the header holds the name ", watch.duplicate(), " twice"));
  }
  FQ_RETURN_IF_ERROR(ReadMetadata(header, file.path_, &file.metadata_));
  FQ_RETURN_IF_ERROR(HeaderReader(bytes.subspan(cursor.position()), file.path_).Read(header, &file.tensors_));
  return file;
}

namespace {

// A shard's name comes from the index file: it must stay inside the folder.
bool IsPlainFileName(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos &&
         name.find('\0') == std::string::npos;
}

// Tensor name -> shard.
absl::StatusOr<std::map<std::string, std::string>> ReadIndex(const std::string& path) {
  FQ_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  if (text.size() > SafetensorsFile::kMaxHeaderBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": has ", text.size(), " bytes; allowed: at most ", SafetensorsFile::kMaxHeaderBytes));
  }
  const Json index = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": must be a JSON object with weight_map"));
  }
  std::map<std::string, std::string> shards;
  for (const auto& [tensor, shard] : index["weight_map"].items()) {
    if (!shard.is_string() || !IsPlainFileName(shard.get<std::string>())) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": tensor ", tensor, " is in ", shard.dump(), "; needed: a file name in the same folder"));
    }
    shards.emplace(tensor, shard.get<std::string>());
  }
  return shards;
}

}  // namespace

absl::StatusOr<SafetensorsModel> SafetensorsModel::Open(const std::string& folder) {
  SafetensorsModel model;
  const std::string index_path = absl::StrCat(folder, "/model.safetensors.index.json");
  std::map<std::string, std::string> shards;
  std::set<std::string> names = {"model.safetensors"};
  std::error_code error;
  if (!std::filesystem::exists(absl::StrCat(folder, "/model.safetensors"), error) &&
      std::filesystem::exists(index_path, error)) {
    FQ_ASSIGN_OR_RETURN(shards, ReadIndex(index_path));
    names.clear();
    for (const auto& [tensor, shard] : shards) {
      names.insert(shard);
    }
  }
  for (const std::string& name : names) {
    FQ_ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::Open(absl::StrCat(folder, "/", name)));
    for (const auto& [tensor, info] : file.tensors()) {
      if (!model.tensors_.emplace(tensor, info).second) {
        return absl::InvalidArgumentError(absl::StrCat(folder, ": tensor ", tensor, " is in two shards"));
      }
    }
    model.files_.push_back(std::move(file));
  }
  for (const auto& [tensor, shard] : shards) {
    if (model.tensors_.find(tensor) == model.tensors_.end()) {
      return absl::DataLossError(absl::StrCat(index_path, ": tensor ", tensor, " is not in ", shard));
    }
  }
  return model;
}

}  // namespace flexquant
