#ifndef FLEXQUANT_EXECUTOR_FOR_ROWS_H_
#define FLEXQUANT_EXECUTOR_FOR_ROWS_H_

#include <algorithm>
#include <cstdint>

#include "absl/functional/function_ref.h"
#include "common/thread_pool.h"

namespace flexquant::executor {

// body(row) for rows [0, count) of about `elements` operations each: by the caller alone where that is little, since
// below about 10 us of work a parallel region costs more than it saves.
inline void ForRows(ThreadPool& pool, int64_t count, int64_t elements, absl::FunctionRef<void(int64_t)> body) {
  constexpr int64_t kSerialElements = 16 * 1024;
  if (count * elements < kSerialElements) {
    for (int64_t row = 0; row < count; ++row) {
      body(row);
    }
    return;
  }
  pool.ParallelChunks(count, std::max<int64_t>(1, count / (8 * pool.num_threads())),
                      [&](int64_t begin, int64_t end, int) {
                        for (int64_t row = begin; row < end; ++row) {
                          body(row);
                        }
                      });
}

}  // namespace flexquant::executor

#endif  // FLEXQUANT_EXECUTOR_FOR_ROWS_H_
