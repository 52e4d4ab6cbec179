#ifndef FLEXQUANT_EXECUTOR_DEVICE_BENCH_H_
#define FLEXQUANT_EXECUTOR_DEVICE_BENCH_H_

// Speed of whole steps of a model's shape on a GPU, with weights made on the device.

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/model_config.h"

namespace flexquant::executor {

struct DeviceBenchOptions {
  ModelConfig config;
  int64_t group_size = 64;
  int device = 0;
  bool portable = false;
  std::vector<int> batches = {1};      // sequences of a decode step, each 1 to 64
  std::vector<int64_t> contexts = {};  // tokens in the cache of each sequence, this step's included
  std::vector<int> prefill_rows = {};  // tokens of a chunk
  int repetitions = 7;                 // of 10 steps each, after one that warms up
};

// Milliseconds of one step.
struct StepTime {
  double median = 0;
  double least = 0;
  double most = 0;
};

struct DecodeResult {
  std::string plan;  // "3" ... "8": uniform; "mixed": a random width for each layer group; "isolated": and sequence
  int batch = 0;
  int64_t context = 0;
  double weight_bytes = 0;  // read once for all sequences, at the largest width
  double kv_bytes = 0;
  StepTime graph;    // the captured graph alone
  StepTime held;     // with the inputs copied before every step, the plan the same
  StepTime changed;  // likewise, another plan of the same kind every step
};

struct PrefillResult {
  int rows = 0;
  StepTime step;    // all layers, without the head, at 8 bits
  StepTime cublas;  // the same matrix products alone in bf16, weights in bf16
};

struct DeviceBenchResult {
  std::string device;
  double read_only_bytes_per_second = 0;  // of a kernel that only reads the weights
  double copy_bytes_per_second = 0;       // read and written
  std::vector<DecodeResult> decode;
  std::vector<PrefillResult> prefill;
};

// UNIMPLEMENTED in a build without CUDA; else errors of the device. `progress` is called before each case with the
// number of cases done and of all; an error that it returns ends the benchmark.
absl::StatusOr<DeviceBenchResult> RunDeviceBench(const DeviceBenchOptions& options,
                                                 const std::function<absl::Status(int, int)>& progress);

}  // namespace flexquant::executor

#endif  // FLEXQUANT_EXECUTOR_DEVICE_BENCH_H_
