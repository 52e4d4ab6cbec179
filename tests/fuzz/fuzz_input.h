#ifndef FLEXQUANT_TESTS_FUZZ_FUZZ_INPUT_H_
#define FLEXQUANT_TESTS_FUZZ_FUZZ_INPUT_H_

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/types/span.h"

namespace flexquant::fuzz {

// Reads a target's input front to back as choices and numbers; past its end everything is 0.
class FuzzInput {
 public:
  explicit FuzzInput(absl::Span<const uint8_t> bytes) : bytes_(bytes) {}

  bool empty() const { return bytes_.empty(); }
  uint8_t Byte() {
    if (bytes_.empty()) {
      return 0;
    }
    const uint8_t byte = bytes_.front();
    bytes_.remove_prefix(1);
    return byte;
  }
  bool Flag() { return (Byte() & 1U) != 0; }
  // In [low, high], which are less than 256 apart.
  uint32_t Small(uint32_t low, uint32_t high) { return low + Byte() % (high - low + 1); }
  // Little-endian.
  uint64_t Word() {
    uint64_t word = 0;
    for (unsigned shift = 0; shift < 64; shift += 8) {
      word |= static_cast<uint64_t>(Byte()) << shift;
    }
    return word;
  }
  // Mostly a small number, now and then any at all.
  uint64_t Number(uint32_t small) {
    const uint8_t byte = Byte();
    return byte == 0xFF ? Word() : byte % (small + 1);
  }
  // Mostly a moderate number, now and then any at all: NaN, infinities.
  double Real() {
    const uint8_t byte = Byte();
    return byte == 0xFF ? std::bit_cast<double>(Word()) : (static_cast<double>(byte) - 64) / 32;
  }
  std::string Bytes(size_t count) {
    count = std::min(count, bytes_.size());
    std::string text(reinterpret_cast<const char*>(bytes_.data()), count);
    bytes_.remove_prefix(count);
    return text;
  }
  std::string Rest() { return Bytes(bytes_.size()); }
  // Up to the next byte 0xFF, which no text has, or to the end.
  std::string Section() {
    const auto end = std::find(bytes_.begin(), bytes_.end(), uint8_t{0xFF});
    std::string text = Bytes(static_cast<size_t>(end - bytes_.begin()));
    Byte();
    return text;
  }

 private:
  absl::Span<const uint8_t> bytes_;
};

}  // namespace flexquant::fuzz

#endif  // FLEXQUANT_TESTS_FUZZ_FUZZ_INPUT_H_
