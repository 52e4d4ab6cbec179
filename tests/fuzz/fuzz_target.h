#ifndef FLEXQUANT_TESTS_FUZZ_FUZZ_TARGET_H_
#define FLEXQUANT_TESTS_FUZZ_FUZZ_TARGET_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>

#include "absl/types/span.h"

namespace flexquant::fuzz {

using FuzzBody = void (*)(absl::Span<const uint8_t> input);

// The targets linked into this program, by name.
inline std::map<std::string, FuzzBody>& Targets() {
  static auto* const kTargets = new std::map<std::string, FuzzBody>();
  return *kTargets;
}

struct TargetRegistration {
  TargetRegistration(const char* name, FuzzBody body) { Targets().emplace(name, body); }
};

}  // namespace flexquant::fuzz

// FQ_FUZZ_TARGET(name, input) { ... } runs the code under test on `input`, any bytes; a broken promise ends the
// process. It is libFuzzer's entry under the preset `fuzz`, and elsewhere a target of the program that replays
// tests/fuzz/corpus. In the namespace flexquant::fuzz.
#ifdef FLEXQUANT_LIBFUZZER
#define FQ_FUZZ_ENTRY(name)                                                 \
  extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);  \
  extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) { \
    Fuzz_##name(absl::MakeConstSpan(data, size));                           \
    return 0;                                                               \
  }
#else
#define FQ_FUZZ_ENTRY(name) static const TargetRegistration kRegistration_##name(#name, &Fuzz_##name);
#endif
#define FQ_FUZZ_TARGET(name, input)                         \
  static void Fuzz_##name(absl::Span<const uint8_t> input); \
  FQ_FUZZ_ENTRY(name)                                       \
  static void Fuzz_##name(absl::Span<const uint8_t> input)

#endif  // FLEXQUANT_TESTS_FUZZ_FUZZ_TARGET_H_
