#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/formats/byte_cursor.h"
#include "common/formats/gguf.h"
#include "common/status_macros.h"

namespace flexquant {
namespace {

constexpr absl::string_view kMagic = "GGUF";
constexpr uint64_t kDefaultAlignment = 32;
constexpr uint64_t kMaxAlignment = 1 << 16;
constexpr uint64_t kMaxKeyBytes = 65535;
constexpr uint64_t kMaxMetadata = 1 << 16;
constexpr uint64_t kMaxTensors = 1 << 17;
constexpr uint32_t kMaxDimensions = 4;
constexpr int64_t kMaxElements = int64_t{1} << 46;

class Parser {
 public:
  Parser(absl::Span<const uint8_t> bytes, const std::string& path) : bytes_(bytes), path_(path), cursor_(bytes) {}

  absl::Status Header(uint32_t* version) {
    absl::Span<const uint8_t> magic;
    if (!cursor_.ReadBytes(kMagic.size(), &magic) || !std::equal(magic.begin(), magic.end(), kMagic.begin())) {
      return Invalid("is not a GGUF file: it does not begin with \"GGUF\"");
    }
    if (!cursor_.Read(version)) {
      return Truncated("the header");
    }
    if (*version != 2 && *version != 3) {
      return Invalid(absl::StrCat("has GGUF version ", *version, "; supported: 2 and 3, little-endian"));
    }
    if (!cursor_.Read(&num_tensors_) || !cursor_.Read(&num_metadata_)) {
      return Truncated("the header");
    }
    // The smallest entries: key length, type and one byte; name length, dimensions, type and offset.
    FQ_RETURN_IF_ERROR(CheckCount("metadata entries", num_metadata_, 13, kMaxMetadata));
    return CheckCount("tensors", num_tensors_, 24, kMaxTensors);
  }

  absl::Status Metadata(std::map<std::string, GgufValue, std::less<>>* metadata) {
    for (uint64_t i = 0; i < num_metadata_; ++i) {
      absl::string_view key;
      uint32_t type = 0;
      if (!cursor_.ReadString(&key) || !cursor_.Read(&type)) {
        return Truncated(absl::StrCat("metadata entry ", i));
      }
      if (key.empty() || key.size() > kMaxKeyBytes) {
        return Invalid(absl::StrCat("has a metadata key of ", key.size(), " bytes; allowed: 1 to ", kMaxKeyBytes));
      }
      GgufValue value;
      FQ_RETURN_IF_ERROR(Value(key, type, &value));
      if (!metadata->emplace(std::string(key), value).second) {
        return Invalid(absl::StrCat("holds the metadata key ", Printable(key), " twice"));
      }
    }
    return absl::OkStatus();
  }

  absl::Status Tensors(uint64_t alignment, std::map<std::string, GgufTensor>* tensors) {
    std::vector<std::pair<uint64_t, GgufTensor*>> places;
    for (uint64_t i = 0; i < num_tensors_; ++i) {
      GgufTensor tensor;
      uint64_t offset = 0;
      FQ_RETURN_IF_ERROR(TensorInfo(i, &tensor, &offset));
      if (offset % alignment != 0) {
        return Invalid(
            absl::StrCat("tensor ", tensor.name, " begins at ", offset, ", no multiple of the alignment ", alignment));
      }
      auto [it, inserted] = tensors->emplace(tensor.name, tensor);
      if (!inserted) {
        return Invalid(absl::StrCat("holds the tensor ", tensor.name, " twice"));
      }
      places.emplace_back(offset, &it->second);
    }
    return Place(alignment, std::move(places));
  }

  absl::Status Invalid(absl::string_view what) const {
    return absl::InvalidArgumentError(absl::StrCat(path_, ": ", what));
  }

 private:
  absl::Status Truncated(absl::string_view where) const {
    return absl::DataLossError(
        absl::StrCat(path_, ": ends within ", where, " (", bytes_.size(), " bytes; fetch the file again)"));
  }

  // Names come from the file, so long or binary ones are shortened for messages.
  static std::string Printable(absl::string_view name) {
    std::string text(name.substr(0, 100));
    std::replace_if(
        text.begin(), text.end(), [](char c) { return c < 32 || c == 127; }, '?');
    return text;
  }

  absl::Status CheckCount(absl::string_view what, uint64_t count, uint64_t smallest, uint64_t limit) const {
    if (count > limit) {
      return Invalid(absl::StrCat("claims ", count, " ", what, "; allowed: 0 to ", limit));
    }
    return count > cursor_.remaining() / smallest ? Truncated(absl::StrCat("its claimed ", count, " ", what))
                                                  : absl::OkStatus();
  }

  absl::Status Value(absl::string_view key, uint32_t type, GgufValue* value) {
    if (type > static_cast<uint32_t>(GgufType::kFloat64)) {
      return Invalid(absl::StrCat("metadata ", Printable(key), " has type ", type, "; allowed: 0 to 12"));
    }
    value->type = static_cast<GgufType>(type);
    const uint64_t begin = cursor_.position();
    absl::Span<const uint8_t> skipped;
    absl::string_view text;
    bool read = true;
    if (value->type == GgufType::kArray) {
      FQ_RETURN_IF_ERROR(Array(key, value));
    } else if (value->type == GgufType::kString) {
      read = cursor_.ReadString(&text);
    } else {
      read = cursor_.ReadBytes(GgufValueSize(value->type), &skipped);
    }
    if (!read) {
      return Truncated(absl::StrCat("metadata ", Printable(key)));
    }
    value->bytes = bytes_.subspan(begin, cursor_.position() - begin);
    return absl::OkStatus();
  }

  absl::Status Array(absl::string_view key, GgufValue* value) {
    uint32_t type = 0;
    if (!cursor_.Read(&type) || !cursor_.Read(&value->count)) {
      return Truncated(absl::StrCat("metadata ", Printable(key)));
    }
    value->element_type = static_cast<GgufType>(type);
    if (type > static_cast<uint32_t>(GgufType::kFloat64) || value->element_type == GgufType::kArray) {
      return Invalid(absl::StrCat("metadata ", Printable(key), " is an array of type ", type,
                                  "; allowed: 0 to 12 without 9 (arrays of arrays)"));
    }
    const bool strings = value->element_type == GgufType::kString;
    const uint64_t smallest = strings ? sizeof(uint64_t) : GgufValueSize(value->element_type);
    bool read = value->count <= cursor_.remaining() / smallest;
    if (read && !strings) {
      absl::Span<const uint8_t> skipped;
      read = cursor_.ReadBytes(value->count * smallest, &skipped);
    }
    for (uint64_t i = 0; read && strings && i < value->count; ++i) {
      absl::string_view text;
      read = cursor_.ReadString(&text);
    }
    return read ? absl::OkStatus()
                : Truncated(absl::StrCat("metadata ", Printable(key), ", an array of ", value->count, " elements"));
  }

  absl::Status TensorInfo(uint64_t index, GgufTensor* tensor, uint64_t* offset) {
    absl::string_view name;
    uint32_t num_dimensions = 0;
    if (!cursor_.ReadString(&name) || !cursor_.Read(&num_dimensions)) {
      return Truncated(absl::StrCat("tensor entry ", index));
    }
    if (name.empty() || Printable(name) != name) {
      return Invalid(absl::StrCat("tensor entry ", index, " has no usable name (", name.size(),
                                  " bytes; allowed: 1 to 100 printable ones)"));
    }
    tensor->name = std::string(name);
    if (num_dimensions < 1 || num_dimensions > kMaxDimensions) {
      return Invalid(
          absl::StrCat("tensor ", name, " has ", num_dimensions, " dimensions; allowed: 1 to ", kMaxDimensions));
    }
    int64_t elements = 1;
    for (uint32_t d = 0; d < num_dimensions; ++d) {
      uint64_t size = 0;
      if (!cursor_.Read(&size)) {
        return Truncated(absl::StrCat("tensor entry ", index));
      }
      if (size < 1 || size > static_cast<uint64_t>(kMaxElements / elements)) {
        return Invalid(absl::StrCat("tensor ", name, " has dimension ", size, "; at most ", kMaxElements,
                                    " elements in all, at least 1 a dimension"));
      }
      elements *= static_cast<int64_t>(size);
      tensor->shape.push_back(static_cast<int64_t>(size));
    }
    std::reverse(tensor->shape.begin(), tensor->shape.end());
    uint32_t type = 0;
    if (!cursor_.Read(&type) || !cursor_.Read(offset)) {
      return Truncated(absl::StrCat("tensor entry ", index));
    }
    const GgmlTypeTraits* traits = FindGgmlType(type);
    if (traits == nullptr) {
      return Invalid(absl::StrCat("tensor ", name, " has ggml type ", type,
                                  "; supported: F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K to Q6_K (take a "
                                  "file quantised in one of these)"));
    }
    tensor->type = traits->type;
    if (tensor->shape.back() % traits->block_elements != 0) {
      return Invalid(absl::StrCat("tensor ", name, " has rows of ", tensor->shape.back(), " elements, no multiple of ",
                                  traits->name, "'s blocks of ", traits->block_elements));
    }
    return absl::OkStatus();
  }

  // Gives every tensor its bytes. `places` are offsets from the data's start.
  absl::Status Place(uint64_t alignment, std::vector<std::pair<uint64_t, GgufTensor*>> places) const {
    const uint64_t begin = CeilToMultiple(cursor_.position(), alignment);
    const uint64_t available = begin <= bytes_.size() ? bytes_.size() - begin : 0;
    std::sort(places.begin(), places.end());
    uint64_t end = 0;
    const GgufTensor* previous = nullptr;
    for (const auto& [offset, tensor] : places) {
      const GgmlTypeTraits* traits = FindGgmlType(static_cast<uint32_t>(tensor->type));
      const uint64_t size =
          static_cast<uint64_t>(tensor->num_elements() / traits->block_elements * traits->block_bytes);
      if (offset > available || size > available - offset) {
        return absl::DataLossError(absl::StrCat(path_, ": tensor ", tensor->name, " needs ", size, " bytes at offset ",
                                                offset, " of ", available, " bytes of data (fetch the file again)"));
      }
      if (previous != nullptr && offset < end) {
        return absl::DataLossError(
            absl::StrCat(path_, ": tensors ", previous->name, " and ", tensor->name, " overlap"));
      }
      tensor->data = bytes_.subspan(begin + offset, size);
      end = offset + size;
      previous = tensor;
    }
    return absl::OkStatus();
  }

  static uint64_t CeilToMultiple(uint64_t value, uint64_t multiple) {
    return (value + multiple - 1) / multiple * multiple;
  }

  absl::Span<const uint8_t> bytes_;
  const std::string& path_;
  ByteCursor cursor_;
  uint64_t num_tensors_ = 0;
  uint64_t num_metadata_ = 0;
};

}  // namespace

absl::StatusOr<GgufFile> GgufFile::Open(const std::string& path) {
  FQ_ASSIGN_OR_RETURN(MappedFile mapped, MappedFile::Open(path));
  FQ_ASSIGN_OR_RETURN(GgufFile file, Parse(mapped.bytes(), path));
  file.file_ = std::move(mapped);
  return file;
}

absl::StatusOr<GgufFile> GgufFile::Parse(absl::Span<const uint8_t> bytes, const std::string& path) {
  GgufFile file;
  file.path_ = path;
  Parser parser(bytes, path);
  FQ_RETURN_IF_ERROR(parser.Header(&file.version_));
  FQ_RETURN_IF_ERROR(parser.Metadata(&file.metadata_));
  uint64_t alignment = kDefaultAlignment;
  if (file.Has("general.alignment")) {
    FQ_ASSIGN_OR_RETURN(alignment, file.GetUint64("general.alignment"));
    if (alignment < 1 || alignment > kMaxAlignment || (alignment & (alignment - 1)) != 0) {
      return parser.Invalid(
          absl::StrCat("general.alignment is ", alignment, "; allowed: powers of two from 1 to ", kMaxAlignment));
    }
  }
  FQ_RETURN_IF_ERROR(parser.Tensors(alignment, &file.tensors_));
  return file;
}

}  // namespace flexquant
