#ifndef FLEXQUANT_CLIENT_CLI_MEMORY_READ_H_
#define FLEXQUANT_CLIENT_CLI_MEMORY_READ_H_

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/thread_pool.h"
#include "executor/memory.h"

namespace flexquant::cli {

// How fast threads read memory that no cache holds: nothing that reads its weights once a token decodes faster, as in
// the STREAM benchmark but without writes. Not thread-safe.
class MemoryRead {
 public:
  // `bytes` of memory, in huge pages where the system has them, cut among `threads`, each part first touched by its
  // reader. RESOURCE_EXHAUSTED if memory is short.
  static absl::StatusOr<std::unique_ptr<MemoryRead>> Create(uint64_t bytes, int threads);

  // Of the fastest of several passes over all of it.
  double BytesPerSecond();

 private:
  MemoryRead(executor::LazyBuffer memory, int threads);
  absl::Span<uint64_t> Part(int thread) const;

  const executor::LazyBuffer memory_;
  ThreadPool threads_;
  volatile uint64_t sum_ = 0;  // so that reads are not left out
};

}  // namespace flexquant::cli

#endif  // FLEXQUANT_CLIENT_CLI_MEMORY_READ_H_
