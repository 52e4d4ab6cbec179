#ifndef FLEXQUANT_CLIENT_CLI_MEMORY_READ_H_
#define FLEXQUANT_CLIENT_CLI_MEMORY_READ_H_

#include <cstdint>
#include <vector>

#include "common/thread_pool.h"

namespace flexquant::cli {

// How fast threads read memory that no cache holds: nothing that reads its weights once a token decodes faster, as in
// the STREAM benchmark but without writes. Not thread-safe.
class MemoryRead {
 public:
  // `bytes` of memory, cut among `threads`, each part first touched by its reader.
  MemoryRead(uint64_t bytes, int threads);

  // Of one pass over all of it.
  double BytesPerSecond();

 private:
  ThreadPool threads_;
  std::vector<std::vector<uint64_t>> parts_;  // of the threads
  volatile uint64_t sum_ = 0;                 // so that reads are not left out
};

}  // namespace flexquant::cli

#endif  // FLEXQUANT_CLIENT_CLI_MEMORY_READ_H_
