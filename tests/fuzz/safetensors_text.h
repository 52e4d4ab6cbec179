#ifndef FLEXQUANT_TESTS_FUZZ_SAFETENSORS_TEXT_H_
#define FLEXQUANT_TESTS_FUZZ_SAFETENSORS_TEXT_H_

#include <cstdint>
#include <cstring>
#include <string>

namespace flexquant::fuzz {

// A safetensors file with this header, padded as the converter pads it.
inline std::string SafetensorsWith(std::string header, const std::string& data) {
  constexpr size_t kAlignment = 64;
  header.append((kAlignment - (sizeof(uint64_t) + header.size()) % kAlignment) % kAlignment, ' ');
  const uint64_t size = header.size();
  std::string file(sizeof(size), '\0');
  std::memcpy(file.data(), &size, sizeof(size));
  return file + header + data;
}

}  // namespace flexquant::fuzz

#endif  // FLEXQUANT_TESTS_FUZZ_SAFETENSORS_TEXT_H_
