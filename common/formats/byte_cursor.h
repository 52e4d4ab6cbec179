#ifndef FLEXQUANT_COMMON_FORMATS_BYTE_CURSOR_H_
#define FLEXQUANT_COMMON_FORMATS_BYTE_CURSOR_H_

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace flexquant {

// Reads little-endian values one after another. Every read says whether enough bytes were left; none goes past the end.
class ByteCursor {
 public:
  explicit ByteCursor(absl::Span<const uint8_t> bytes) : bytes_(bytes) {}

  uint64_t position() const { return position_; }
  uint64_t remaining() const { return bytes_.size() - position_; }

  template <typename T>
  bool Read(T* value) {
    static_assert(std::is_arithmetic_v<T>);
    if (remaining() < sizeof(T)) {
      return false;
    }
    std::memcpy(value, bytes_.data() + position_, sizeof(T));
    position_ += sizeof(T);
    return true;
  }

  bool ReadBytes(uint64_t size, absl::Span<const uint8_t>* out) {
    if (remaining() < size) {
      return false;
    }
    *out = bytes_.subspan(position_, size);
    position_ += size;
    return true;
  }

  // A uint64 length and that many bytes.
  bool ReadString(absl::string_view* out) {
    uint64_t size = 0;
    absl::Span<const uint8_t> bytes;
    if (!Read(&size) || !ReadBytes(size, &bytes)) {
      return false;
    }
    *out = absl::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    return true;
  }

 private:
  absl::Span<const uint8_t> bytes_;
  uint64_t position_ = 0;
};

}  // namespace flexquant

#endif  // FLEXQUANT_COMMON_FORMATS_BYTE_CURSOR_H_
