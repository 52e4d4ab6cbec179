#include "executor/memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <optional>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace flexquant::executor {
namespace {

std::optional<uint64_t> ReadNumber(const std::string& path) {
  std::ifstream file(path);
  std::string word;
  uint64_t value = 0;
  if (file >> word && absl::SimpleAtoi(word, &value)) {
    return value;
  }
  return std::nullopt;
}

}  // namespace

absl::StatusOr<LazyBuffer> LazyBuffer::Allocate(uint64_t bytes, absl::string_view what) {
  LazyBuffer buffer;
  if (bytes == 0) {
    return buffer;
  }
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrCat("cannot reserve ", bytes, " bytes of memory for ", what, ": ", std::strerror(errno)));
  }
  buffer.data_ = data;
  buffer.bytes_ = bytes;
  return buffer;
}

void LazyBuffer::PreferHugePages() {
  if (data_ != nullptr) {
    madvise(data_, bytes_, MADV_HUGEPAGE);
  }
}

LazyBuffer& LazyBuffer::operator=(LazyBuffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

LazyBuffer::~LazyBuffer() {
  if (data_ != nullptr) {
    munmap(data_, bytes_);
  }
}

absl::StatusOr<uint64_t> AvailableMemoryBytes() {
  std::ifstream meminfo("/proc/meminfo");
  std::string key;
  std::string unit;
  std::optional<uint64_t> available;
  for (uint64_t kib = 0; meminfo >> key >> kib && std::getline(meminfo, unit);) {
    if (key == "MemAvailable:") {
      available = kib * 1024;
    }
  }
  if (!available.has_value()) {
    return absl::UnavailableError("/proc/meminfo has no MemAvailable; give the size of the KV cache explicitly");
  }
  // A container's limit; its page cache counts as used here, so the rest is a lower bound and inactive files are added.
  const std::optional<uint64_t> limit = ReadNumber("/sys/fs/cgroup/memory.max");
  const std::optional<uint64_t> used = ReadNumber("/sys/fs/cgroup/memory.current");
  if (limit.has_value() && used.has_value()) {
    uint64_t reclaimable = 0;
    std::ifstream stat("/sys/fs/cgroup/memory.stat");
    for (uint64_t value = 0; stat >> key >> value;) {
      if (key == "inactive_file" || key == "active_file") {
        reclaimable += value;
      }
    }
    const uint64_t held = *used - std::min(*used, reclaimable);
    available = std::min(*available, *limit - std::min(*limit, held));
  }
  return *available;
}

}  // namespace flexquant::executor
