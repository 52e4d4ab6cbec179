#ifndef FLEXQUANT_EXECUTOR_RESIDENT_WEIGHTS_H_
#define FLEXQUANT_EXECUTOR_RESIDENT_WEIGHTS_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "common/store/model_store.h"
#include "common/thread_pool.h"
#include "executor/memory.h"

namespace flexquant::executor {

// A store's planes and scales in memory of its own, in huge pages where the system gives them. A step reads them
// through from end to end: from a mapped file, whose pages are small, every 4 KiB of each plane cost a walk of the page
// tables and stop the hardware's prefetching. Norms, biases and references stay where they are.
class ResidentWeights {
 public:
  // What the copy takes.
  static uint64_t Bytes(const ModelStore& whole);
  // Copies with threads of its own, on `cpus` as in ThreadPool; each takes what is its share of a product, so that it
  // touches that memory first. RESOURCE_EXHAUSTED if memory is short. `whole` must outlive the result.
  static absl::StatusOr<std::unique_ptr<ResidentWeights>> Load(const ModelStore& whole, int num_threads,
                                                               const std::vector<int>& cpus);

  const ModelStore& store() const { return *store_; }

 private:
  ResidentWeights() = default;
  void CopyAll(const ModelStore& whole, ThreadPool& pool);
  void Copy(NestedMatrix& matrix, ThreadPool& pool);

  LazyBuffer memory_;
  uint8_t* next_ = nullptr;
  std::unique_ptr<ModelStore> store_;
};

}  // namespace flexquant::executor

#endif  // FLEXQUANT_EXECUTOR_RESIDENT_WEIGHTS_H_
