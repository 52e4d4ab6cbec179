#include "executor/cuda/cuda_bench.h"

#include <cublas_v2.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <array>
#include <memory>
#include <numeric>
#include <string>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "common/precision.h"
#include "common/status_macros.h"
#include "executor/cuda/cuda_bench_kernels.h"
#include "executor/cuda/cuda_bench_model.h"
#include "executor/cuda/device_memory.h"
#include "kernels/cuda/bench_support.h"

namespace flexquant::executor {
namespace {

constexpr int kMaxRows = cuda::kMaxGemvRows;
constexpr int kStepsARepetition = 10;
// So long the device is busy before a step that is launched kernel by kernel, so that it never waits for the host.
constexpr double kOccupiedMs = 10;
constexpr char kIsolated[] = "isolated";

// A model's shape on the device, ready to run steps.
class CudaBench {
 public:
  explicit CudaBench(const DeviceBenchOptions& options) : options_(options), config_(options.config) {}
  ~CudaBench() {
    for (cudaEvent_t event : {begin_, end_}) {
      if (event != nullptr) {
        cudaEventDestroy(event);
      }
    }
  }
  CudaBench(const CudaBench&) = delete;
  CudaBench& operator=(const CudaBench&) = delete;

  absl::Status Initialise(DeviceBenchResult* result);
  absl::Status MeasureMemory(DeviceBenchResult* result);
  absl::StatusOr<DecodeResult> MeasureDecode(int batch, int64_t context, const std::string& plan);
  absl::StatusOr<PrefillResult> MeasurePrefill(int rows);
  bool Fits(int batch, int64_t context) const { return model_->Fits(batch, context); }

 private:
  // Milliseconds of one call of `step`.
  absl::StatusOr<StepTime> Time(absl::FunctionRef<absl::Status()> step);
  absl::Status MeasureKernels(int batch, const BytesByKind& weight_bytes, DecodeResult* result);
  absl::StatusOr<StepTime> MeasureCublas(int rows);

  const DeviceBenchOptions& options_;
  const ModelConfig& config_;
  std::unique_ptr<CudaBenchModel> model_;
  cudaEvent_t begin_ = nullptr;
  cudaEvent_t end_ = nullptr;
  DeviceBuffer sink_;
  double read_ms_ = 0;  // of all weights by a kernel that only reads
};

absl::Status CudaBench::Initialise(DeviceBenchResult* result) {
  FQ_ASSIGN_OR_RETURN(model_, CudaBenchModel::Create(options_));
  result->device = model_->device();
  FQ_RETURN_IF_CUDA_ERROR(cudaEventCreate(&begin_));
  return CudaStatus(cudaEventCreate(&end_), "an event");
}

absl::StatusOr<StepTime> CudaBench::Time(absl::FunctionRef<absl::Status()> step) {
  std::vector<double> times;
  for (int repetition = 0; repetition <= options_.repetitions; ++repetition) {
    FQ_RETURN_IF_CUDA_ERROR(cudaEventRecord(begin_, model_->stream()));
    for (int i = 0; i < kStepsARepetition; ++i) {
      FQ_RETURN_IF_ERROR(step());
    }
    FQ_RETURN_IF_CUDA_ERROR(cudaEventRecord(end_, model_->stream()));
    FQ_RETURN_IF_CUDA_ERROR(cudaEventSynchronize(end_));
    float ms = 0;
    FQ_RETURN_IF_CUDA_ERROR(cudaEventElapsedTime(&ms, begin_, end_));
    if (repetition > 0) {
      times.push_back(static_cast<double>(ms) / kStepsARepetition);
    }
  }
  return SummaryOf(std::move(times));
}

absl::Status CudaBench::MeasureMemory(DeviceBenchResult* result) {
  const size_t half = model_->weights().matrix_bytes() / 32 * 16;
  FQ_ASSIGN_OR_RETURN(sink_, AllocateDevice(sizeof(uint32_t), "sink"));
  for (const int blocks : {528, 1056, 2112}) {
    FQ_ASSIGN_OR_RETURN(const StepTime read, Time([&] {
                          return CudaStatus(cuda::LaunchReadOnly(model_->weights().matrices(), 2 * half, blocks,
                                                                 sink_.as<uint32_t>(), model_->stream()),
                                            "reading");
                        }));
    result->read_only_bytes_per_second =
        std::max(result->read_only_bytes_per_second, static_cast<double>(2 * half) / read.median * 1e3);
    read_ms_ = read.median;
  }
  FQ_ASSIGN_OR_RETURN(const DeviceBuffer copy, AllocateDevice(std::min<size_t>(half, size_t{1} << 30), "copy"));
  for (const int blocks : {528, 1056, 2112}) {
    FQ_ASSIGN_OR_RETURN(const StepTime time, Time([&] {
                          return CudaStatus(cuda::LaunchCopy(model_->weights().matrices(), copy.as<void>(),
                                                             copy.bytes(), blocks, model_->stream()),
                                            "copying");
                        }));
    result->copy_bytes_per_second =
        std::max(result->copy_bytes_per_second, 2.0 * static_cast<double>(copy.bytes()) / time.median * 1e3);
  }
  return absl::OkStatus();
}

absl::Status CudaBench::MeasureKernels(int batch, const BytesByKind& weight_bytes, DecodeResult* result) {
  KernelBench bench;
  bench.stream = model_->stream();
  bench.repetitions = options_.repetitions;
  bench.launch = [&](LaunchObserver* observer) {
    return model_->forward().LaunchDecode(model_->arrays().device(), batch, model_->arrays().results(), observer);
  };
  bench.occupy = [&]() -> absl::Status {
    const size_t bytes = model_->weights().matrix_bytes() / 16 * 16;
    for (double ms = 0; ms < kOccupiedMs; ms += read_ms_) {
      FQ_RETURN_IF_CUDA_ERROR(cuda::LaunchReadOnly(model_->weights().matrices(), bytes, /*blocks=*/1056,
                                                   sink_.as<uint32_t>(), model_->stream()));
    }
    return absl::OkStatus();
  };
  bench.time = [this](absl::FunctionRef<absl::Status()> step) { return Time(step); };
  bench.step = result->graph;
  FQ_ASSIGN_OR_RETURN(result->kernels, executor::MeasureKernels(bench));
  for (KernelTime& kernel : result->kernels.kernels) {
    for (size_t kind = 0; kind < weight_bytes.size(); ++kind) {
      kernel.bytes = kernel.name == kLayerGroupKindNames[kind] ? weight_bytes[kind] : kernel.bytes;
    }
    kernel.bytes = kernel.name == "attention" ? result->kv_bytes : kernel.bytes;
  }
  return absl::OkStatus();
}

absl::StatusOr<DecodeResult> CudaBench::MeasureDecode(int batch, int64_t context, const std::string& plan) {
  DecodeResult result{plan, batch, context, 0, 0, {}, {}, {}, {}, {}};
  model_->SetSequences(batch, context);
  const BytesByKind weight_bytes = model_->SetWidths(batch, plan);
  result.weight_bytes = std::accumulate(weight_bytes.begin(), weight_bytes.end(), 0.0);
  result.kv_bytes = static_cast<double>(batch * context * config_.num_layers * 2 * config_.kv_size() * 2);
  const auto upload = [&] { return model_->Upload(batch, context); };
  FQ_RETURN_IF_ERROR(upload());
  FQ_RETURN_IF_CUDA_ERROR(cudaStreamSynchronize(model_->stream()));

  FQ_ASSIGN_OR_RETURN(const CudaGraph graph, model_->CaptureDecode(batch));
  const auto launch = [&] { return graph.Launch(model_->stream()); };

  FQ_ASSIGN_OR_RETURN(result.graph, Time(launch));
  if (options_.kernels) {
    FQ_RETURN_IF_ERROR(MeasureKernels(batch, weight_bytes, &result));
  }
  FQ_ASSIGN_OR_RETURN(result.held, Time([&]() -> absl::Status {
                        FQ_RETURN_IF_ERROR(upload());
                        return launch();
                      }));
  // As the executor does: the host fills the arrays for a step when the step before has ended.
  FQ_ASSIGN_OR_RETURN(result.changed, Time([&]() -> absl::Status {
                        std::rotate(model_->arrays().widths(), model_->arrays().widths() + kMaxRows,
                                    model_->arrays().widths() + model_->num_layer_groups() * kMaxRows);
                        FQ_RETURN_IF_ERROR(upload());
                        return launch();
                      }));
  return result;
}

absl::StatusOr<StepTime> CudaBench::MeasureCublas(int rows) {
  const DeviceBlock& block = model_->weights().block(0);
  const std::array<const cuda::DeviceNestedMatrix*, 4> matrices = {&block.qkv, &block.o, &block.gate_up, &block.down};
  size_t weight_elements = 0;
  size_t input = 0;
  size_t output = 0;
  for (const auto* matrix : matrices) {
    weight_elements += static_cast<size_t>(matrix->rows * matrix->cols);
    input = std::max(input, static_cast<size_t>(matrix->cols * rows));
    output = std::max(output, static_cast<size_t>(matrix->rows * rows));
  }
  FQ_ASSIGN_OR_RETURN(const DeviceBuffer w, AllocateDeviceZeroed(weight_elements * 2, "bf16 weights"));
  FQ_ASSIGN_OR_RETURN(const DeviceBuffer x, AllocateDeviceZeroed(input * 2, "bf16 input"));
  FQ_ASSIGN_OR_RETURN(const DeviceBuffer y, AllocateDeviceZeroed(output * 2, "bf16 output"));
  FQ_RETURN_IF_CUDA_ERROR(cuda::LaunchRandomBf16(w.as<uint16_t>(), weight_elements, 2, model_->stream()));
  FQ_RETURN_IF_CUDA_ERROR(cuda::LaunchRandomBf16(x.as<uint16_t>(), input, 3, model_->stream()));
  cublasHandle_t cublas = nullptr;
  if (cublasCreate(&cublas) != CUBLAS_STATUS_SUCCESS ||
      cublasSetStream(cublas, model_->stream()) != CUBLAS_STATUS_SUCCESS) {
    return absl::InternalError("cuBLAS cannot be initialised");
  }
  const auto time = Time([&]() -> absl::Status {
    for (int64_t layer = 0; layer < config_.num_layers; ++layer) {
      size_t offset = 0;
      for (const auto* matrix : matrices) {
        const auto n = static_cast<int>(matrix->rows);
        const auto k = static_cast<int>(matrix->cols);
        const float one = 1;
        const float zero = 0;
        const cublasStatus_t status =
            cublasGemmEx(cublas, CUBLAS_OP_T, CUBLAS_OP_N, n, rows, k, &one, w.as<uint16_t>() + offset, CUDA_R_16BF, k,
                         x.as<uint16_t>(), CUDA_R_16BF, k, &zero, y.as<uint16_t>(), CUDA_R_16BF, n, CUBLAS_COMPUTE_32F,
                         CUBLAS_GEMM_DEFAULT);
        if (status != CUBLAS_STATUS_SUCCESS) {
          return absl::InternalError(absl::StrCat("cuBLAS: ", cublasGetStatusString(status)));
        }
        offset += static_cast<size_t>(matrix->rows * matrix->cols);
      }
    }
    return absl::OkStatus();
  });
  cublasDestroy(cublas);
  return time;
}

absl::StatusOr<PrefillResult> CudaBench::MeasurePrefill(int rows) {
  PrefillResult result;
  result.rows = rows;
  std::vector<uint32_t> table(static_cast<size_t>(CudaBenchModel::BlocksFor(rows)));
  for (size_t i = 0; i < table.size(); ++i) {
    table[i] = static_cast<uint32_t>(i);
  }
  model_->arrays().SetBlockTable(0, table);
  for (int row = 0; row < rows; ++row) {
    model_->arrays().tokens()[row] = model_->RandomToken();
    model_->arrays().positions()[row] = row;
  }
  *model_->arrays().num_rows() = rows;
  model_->arrays().row_starts()[0] = 0;
  model_->arrays().row_starts()[1] = rows;
  *model_->arrays().start_position() = 0;
  model_->SetWidths(kMaxRows, absl::StrCat(kTopPrecision));
  FQ_RETURN_IF_ERROR(model_->Upload(1, rows));
  const std::vector<uint8_t> bits(static_cast<size_t>(model_->num_layer_groups()), kTopPrecision);
  FQ_ASSIGN_OR_RETURN(result.step,
                      Time([&] { return model_->forward().LaunchPrefill(model_->arrays().device(), rows, bits); }));
  FQ_ASSIGN_OR_RETURN(result.cublas, MeasureCublas(rows));
  return result;
}

}  // namespace

absl::StatusOr<DeviceBenchResult> RunCudaBench(const DeviceBenchOptions& options,
                                               const std::function<absl::Status(int, int)>& progress) {
  if (options.tensor_parallel > 1) {
    return RunCudaRanksBench(options, progress);
  }
  DeviceBenchResult result;
  CudaBench bench(options);
  FQ_RETURN_IF_ERROR(bench.Initialise(&result));
  FQ_RETURN_IF_ERROR(bench.MeasureMemory(&result));
  const auto cases = static_cast<int>(options.batches.size() * options.contexts.size() * options.plans.size() +
                                      options.prefill_rows.size());
  int done = 0;
  for (const int64_t context : options.contexts) {
    for (const int batch : options.batches) {
      for (const std::string& plan : options.plans) {
        FQ_RETURN_IF_ERROR(progress(done++, cases));
        // Of one sequence, isolated is mixed.
        if (bench.Fits(batch, context) && (batch > 1 || plan != kIsolated)) {
          FQ_ASSIGN_OR_RETURN(DecodeResult decode, bench.MeasureDecode(batch, context, plan));
          result.decode.push_back(std::move(decode));
        }
      }
    }
  }
  for (const int rows : options.prefill_rows) {
    FQ_RETURN_IF_ERROR(progress(done++, cases));
    FQ_ASSIGN_OR_RETURN(const PrefillResult prefill, bench.MeasurePrefill(rows));
    result.prefill.push_back(prefill);
  }
  return result;
}

}  // namespace flexquant::executor
