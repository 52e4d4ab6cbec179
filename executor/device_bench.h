#ifndef FLEXQUANT_EXECUTOR_DEVICE_BENCH_H_
#define FLEXQUANT_EXECUTOR_DEVICE_BENCH_H_

// Speed of whole steps of a model's shape on a GPU, with weights made on the device, and of loading a package.

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/model_config.h"
#include "common/precision.h"

namespace flexquant::executor {

// What decode steps can be measured at: "3" ... "8": uniform; "mixed": a random width for each layer group; "isolated":
// and for each sequence.
const std::vector<std::string>& DeviceBenchPlans();

struct DeviceBenchOptions {
  ModelConfig config;
  int64_t group_size = 64;
  int device = 0;
  bool portable = false;
  std::vector<int> batches = {1};                       // sequences of a decode step, each 1 to 64
  std::vector<int64_t> contexts = {};                   // tokens in the cache of each sequence, this step's included
  std::vector<int> prefill_rows = {};                   // tokens of a chunk
  int repetitions = 7;                                  // of 10 steps each, after one that warms up
  std::vector<std::string> plans = DeviceBenchPlans();  // of decode steps
  bool kernels = false;                                 // measure the kernels of decode steps, too
  int tensor_parallel = 1;        // ranks, on as many GPUs from `device` on; more than 1: decode steps' graphs only
  bool keep_low_columns = false;  // two columns a row for 15-bit activations, also where no width takes them
  // Precision from which on activations have 15 bits.
  int fine_activations_from = kDefaultFineActivationsFrom;
};

// Milliseconds of one step.
struct StepTime {
  double median = 0;
  double least = 0;
  double most = 0;
};

// The kernels of one place in a block of a decode step, in all blocks together.
struct KernelTime {
  std::string name;       // "qkv quantize", "qkv", "attention" ...
  int launches = 0;       // a step
  double alone_us = 0;    // a step, each launch between two events: kernels do not overlap, and the events cost time
  double in_step_us = 0;  // a step, by how much it is shorter without these launches; overlap makes it less
  double bytes = 0;       // of weights, keys and values that they read a step; 0: few, or not known
};

struct KernelTable {
  std::vector<KernelTime> kernels;  // in the order of their first launch
  double event_us = 0;              // between two events with nothing between them
};

struct DecodeResult {
  std::string plan;
  int batch = 0;
  int64_t context = 0;
  double weight_bytes = 0;  // read once for all sequences, at the largest width; rescored rows of the head for each
  double kv_bytes = 0;
  StepTime graph;       // the captured graph alone
  StepTime held;        // with the inputs copied before every step, the plan the same
  StepTime changed;     // likewise, another plan of the same kind every step
  KernelTable kernels;  // empty if not asked for
  StepTime no_sums;     // of ranks: `graph` without the sums over them, all other launches the same
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

struct LoadBenchOptions {
  // Gives the folder of a model package; called once, when the device is known to be there.
  std::function<absl::StatusOr<std::string>()> package;
  int device = 0;
  int repetitions = 5;  // after one that warms up the page cache and the device
};

// Bytes of device memory are measured, beside what the process had before it loaded anything.
struct LoadBenchResult {
  std::string device;
  std::string model;
  uint64_t store_bytes = 0;      // planes, scales and vectors of the package, references not
  uint64_t weight_bytes = 0;     // as computed for the device, not measured
  uint64_t workspace_bytes = 0;  // likewise: activations of an executor with its default options, one KV block
  uint64_t loading_bytes = 0;    // most while loading
  uint64_t ready_bytes = 0;      // with weights and workspace
  StepTime open;                 // ms to open the package
  StepTime load;                 // ms from the open package to all weights on the device
};

#ifndef FLEXQUANT_HAVE_CUDA
// UNIMPLEMENTED.
absl::Status NoCudaError();
#endif

// UNIMPLEMENTED in a build without CUDA; else errors of the device. `progress` is called before each case with the
// number of cases done and of all; an error that it returns ends the benchmark.
absl::StatusOr<DeviceBenchResult> RunDeviceBench(const DeviceBenchOptions& options,
                                                 const std::function<absl::Status(int, int)>& progress);
// The same for loading; `progress` is called with bytes loaded and of all repetitions.
absl::StatusOr<LoadBenchResult> RunLoadBench(const LoadBenchOptions& options,
                                             const std::function<absl::Status(uint64_t, uint64_t)>& progress);

}  // namespace flexquant::executor

#endif  // FLEXQUANT_EXECUTOR_DEVICE_BENCH_H_
