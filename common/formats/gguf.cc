#include "common/formats/gguf.h"

#include <cstring>
#include <limits>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/formats/byte_cursor.h"
#include "common/status_macros.h"

namespace flexquant {
namespace {

template <typename T>
T Load(const uint8_t* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof(T));
  return value;
}

template <typename T>
bool FitInto(T value, int64_t* out) {
  if constexpr (std::is_same_v<T, uint64_t>) {
    if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return false;
    }
  }
  *out = static_cast<int64_t>(value);
  return true;
}

// False if `type` is no integer or the value does not fit.
bool LoadInteger(GgufType type, const uint8_t* bytes, int64_t* out) {
  switch (type) {
    case GgufType::kUint8:
      return FitInto(Load<uint8_t>(bytes), out);
    case GgufType::kInt8:
      return FitInto(Load<int8_t>(bytes), out);
    case GgufType::kUint16:
      return FitInto(Load<uint16_t>(bytes), out);
    case GgufType::kInt16:
      return FitInto(Load<int16_t>(bytes), out);
    case GgufType::kUint32:
      return FitInto(Load<uint32_t>(bytes), out);
    case GgufType::kInt32:
      return FitInto(Load<int32_t>(bytes), out);
    case GgufType::kUint64:
      return FitInto(Load<uint64_t>(bytes), out);
    case GgufType::kInt64:
      return FitInto(Load<int64_t>(bytes), out);
    default:
      return false;
  }
}

bool LoadReal(GgufType type, const uint8_t* bytes, double* out) {
  if (type == GgufType::kFloat32) {
    *out = static_cast<double>(Load<float>(bytes));
    return true;
  }
  if (type == GgufType::kFloat64) {
    *out = Load<double>(bytes);
    return true;
  }
  int64_t integer = 0;
  if (!LoadInteger(type, bytes, &integer)) {
    return false;
  }
  *out = static_cast<double>(integer);
  return true;
}

// Where an array's elements begin: after its element type and count.
constexpr size_t kArrayHeader = sizeof(uint32_t) + sizeof(uint64_t);

}  // namespace

uint64_t GgufValueSize(GgufType type) {
  switch (type) {
    case GgufType::kUint8:
    case GgufType::kInt8:
    case GgufType::kBool:
      return 1;
    case GgufType::kUint16:
    case GgufType::kInt16:
      return 2;
    case GgufType::kUint32:
    case GgufType::kInt32:
    case GgufType::kFloat32:
      return 4;
    case GgufType::kUint64:
    case GgufType::kInt64:
    case GgufType::kFloat64:
      return 8;
    case GgufType::kString:
    case GgufType::kArray:
      return 0;
  }
  return 0;
}

int64_t GgufTensor::num_elements() const {
  int64_t elements = 1;
  for (const int64_t size : shape) {
    elements *= size;
  }
  return elements;
}

bool GgufFile::Has(absl::string_view key) const { return metadata_.find(key) != metadata_.end(); }

absl::StatusOr<const GgufValue*> GgufFile::Find(absl::string_view key) const {
  const auto it = metadata_.find(key);
  if (it == metadata_.end()) {
    return absl::NotFoundError(absl::StrCat(path_, ": metadata ", key, " is missing"));
  }
  return &it->second;
}

absl::Status GgufFile::Unfit(absl::string_view key, absl::string_view wanted) const {
  return absl::InvalidArgumentError(absl::StrCat(path_, ": metadata ", key, " must be ", wanted));
}

absl::StatusOr<std::string> GgufFile::GetString(absl::string_view key) const {
  FQ_ASSIGN_OR_RETURN(const GgufValue* value, Find(key));
  ByteCursor cursor(value->bytes);
  absl::string_view text;
  if (value->type != GgufType::kString || !cursor.ReadString(&text)) {
    return Unfit(key, "a string");
  }
  return std::string(text);
}

absl::StatusOr<int64_t> GgufFile::GetInt64(absl::string_view key) const {
  FQ_ASSIGN_OR_RETURN(const GgufValue* value, Find(key));
  int64_t result = 0;
  if (!LoadInteger(value->type, value->bytes.data(), &result)) {
    return Unfit(key, "an integer below 2^63");
  }
  return result;
}

absl::StatusOr<uint64_t> GgufFile::GetUint64(absl::string_view key) const {
  FQ_ASSIGN_OR_RETURN(const GgufValue* value, Find(key));
  if (value->type == GgufType::kUint64) {
    return Load<uint64_t>(value->bytes.data());
  }
  int64_t result = 0;
  if (!LoadInteger(value->type, value->bytes.data(), &result) || result < 0) {
    return Unfit(key, "an integer of at least 0");
  }
  return static_cast<uint64_t>(result);
}

absl::StatusOr<double> GgufFile::GetDouble(absl::string_view key) const {
  FQ_ASSIGN_OR_RETURN(const GgufValue* value, Find(key));
  double result = 0;
  if (!LoadReal(value->type, value->bytes.data(), &result)) {
    return Unfit(key, "a number");
  }
  return result;
}

absl::StatusOr<bool> GgufFile::GetBool(absl::string_view key) const {
  FQ_ASSIGN_OR_RETURN(const GgufValue* value, Find(key));
  if (value->type != GgufType::kBool || value->bytes[0] > 1) {
    return Unfit(key, "true or false");
  }
  return value->bytes[0] == 1;
}

absl::StatusOr<std::vector<std::string>> GgufFile::GetStringArray(absl::string_view key) const {
  FQ_ASSIGN_OR_RETURN(const GgufValue* value, Find(key));
  if (value->type != GgufType::kArray || value->element_type != GgufType::kString) {
    return Unfit(key, "an array of strings");
  }
  ByteCursor cursor(value->bytes.subspan(kArrayHeader));
  std::vector<std::string> result;
  result.reserve(value->count);
  for (uint64_t i = 0; i < value->count; ++i) {
    absl::string_view text;
    FQ_CHECK(cursor.ReadString(&text));
    result.emplace_back(text);
  }
  return result;
}

absl::StatusOr<std::vector<float>> GgufFile::GetFloatArray(absl::string_view key) const {
  FQ_ASSIGN_OR_RETURN(const GgufValue* value, Find(key));
  std::vector<float> result;
  if (value->type != GgufType::kArray) {
    return Unfit(key, "an array of numbers");
  }
  const uint64_t size = GgufValueSize(value->element_type);
  for (uint64_t i = 0; i < value->count; ++i) {
    double number = 0;
    if (!LoadReal(value->element_type, value->bytes.data() + kArrayHeader + i * size, &number)) {
      return Unfit(key, "an array of numbers");
    }
    result.push_back(static_cast<float>(number));
  }
  return result;
}

absl::StatusOr<std::vector<int64_t>> GgufFile::GetIntArray(absl::string_view key) const {
  FQ_ASSIGN_OR_RETURN(const GgufValue* value, Find(key));
  std::vector<int64_t> result;
  if (value->type != GgufType::kArray) {
    return Unfit(key, "an array of integers");
  }
  const uint64_t size = GgufValueSize(value->element_type);
  for (uint64_t i = 0; i < value->count; ++i) {
    int64_t number = 0;
    if (!LoadInteger(value->element_type, value->bytes.data() + kArrayHeader + i * size, &number)) {
      return Unfit(key, "an array of integers");
    }
    result.push_back(number);
  }
  return result;
}

}  // namespace flexquant
