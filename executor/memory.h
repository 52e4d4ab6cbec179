#ifndef FLEXQUANT_EXECUTOR_MEMORY_H_
#define FLEXQUANT_EXECUTOR_MEMORY_H_

#include <cstddef>
#include <cstdint>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace flexquant::executor {

// Zeroed memory, page-aligned, that takes room only where it has been touched. Move-only.
class LazyBuffer {
 public:
  // RESOURCE_EXHAUSTED naming `what` and the size. 0 bytes is an empty buffer.
  static absl::StatusOr<LazyBuffer> Allocate(uint64_t bytes, absl::string_view what);

  LazyBuffer() = default;
  LazyBuffer(LazyBuffer&& other) noexcept { *this = std::move(other); }
  LazyBuffer& operator=(LazyBuffer&& other) noexcept;
  LazyBuffer(const LazyBuffer&) = delete;
  LazyBuffer& operator=(const LazyBuffer&) = delete;
  ~LazyBuffer();

  // Asks for huge pages, for memory that is all used: less to look up when it is read through. The system may not.
  void PreferHugePages();

  void* data() const { return data_; }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  uint64_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  uint64_t bytes_ = 0;
};

// Bytes from one thread's workspace to the next one's in a buffer for all: whole cache lines, and room for hardware
// that fetches ahead of a thread, or it takes lines away from the next one, which writes them (7 % of a prompt's time).
constexpr size_t ThreadStride(size_t workspace_bytes) {
  constexpr size_t kCacheLine = 64;
  constexpr size_t kFetchedAhead = 8192;
  return (workspace_bytes + kCacheLine - 1) / kCacheLine * kCacheLine + kFetchedAhead;
}

// Memory this process may still take: MemAvailable, or what its control group leaves if that is less. UNAVAILABLE if
// the kernel does not say.
absl::StatusOr<uint64_t> AvailableMemoryBytes();

}  // namespace flexquant::executor

#endif  // FLEXQUANT_EXECUTOR_MEMORY_H_
