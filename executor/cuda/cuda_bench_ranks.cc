// Decode steps of tensor-parallel ranks, each with random weights of its share.

#include <cuda_runtime.h>

#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/thread_pool.h"
#include "executor/cuda/cuda_bench.h"
#include "executor/cuda/cuda_bench_kernels.h"
#include "executor/cuda/cuda_bench_model.h"

namespace flexquant::executor {
namespace {

constexpr int kStepsARepetition = 10;
constexpr absl::Duration kTimeout = absl::Minutes(5);

// One rank; every rank makes the same calls.
class RankBench {
 public:
  RankBench(const DeviceBenchOptions& options, const CudaRank& rank) : options_(options), rank_(rank) {}
  ~RankBench() {
    for (cudaEvent_t event : {begin_, end_}) {
      if (event != nullptr) {
        cudaEventDestroy(event);
      }
    }
  }
  RankBench(const RankBench&) = delete;
  RankBench& operator=(const RankBench&) = delete;

  absl::Status Initialise() {
    FQ_ASSIGN_OR_RETURN(model_, CudaBenchModel::Create(options_, &rank_));
    FQ_RETURN_IF_CUDA_ERROR(cudaEventCreate(&begin_));
    return CudaStatus(cudaEventCreate(&end_), "an event");
  }
  const CudaBenchModel& model() const { return *model_; }

  absl::StatusOr<DecodeResult> MeasureDecode(int batch, int64_t context, const std::string& plan) {
    DecodeResult result{plan, batch, context, 0, 0, {}, {}, {}, {}, {}};
    model_->SetSequences(batch, context);
    const BytesByKind bytes = model_->SetWidths(batch, plan);
    FQ_ASSIGN_OR_RETURN(result.weight_bytes, SumOverRanks(std::accumulate(bytes.begin(), bytes.end(), 0.0)));
    const ModelConfig& config = model_->config();
    FQ_ASSIGN_OR_RETURN(result.kv_bytes, SumOverRanks(static_cast<double>(batch * context * config.num_layers * 2 *
                                                                          config.kv_size() * 2)));
    FQ_RETURN_IF_ERROR(model_->Upload(batch, context));
    FQ_RETURN_IF_CUDA_ERROR(cudaStreamSynchronize(model_->stream()));
    FQ_ASSIGN_OR_RETURN(result.graph, Time(batch, nullptr));
    Omission sums(CudaForward::kRanksPlace);
    FQ_ASSIGN_OR_RETURN(result.no_sums, Time(batch, &sums));
    return result;
  }

 private:
  // Whole bytes.
  absl::StatusOr<double> SumOverRanks(double bytes) const {
    FQ_ASSIGN_OR_RETURN(const std::vector<uint64_t> all,
                        rank_.group->AllGather(rank_.rank, static_cast<uint64_t>(bytes)));
    return static_cast<double>(std::accumulate(all.begin(), all.end(), uint64_t{0}));
  }

  // Milliseconds of a step on this rank; the ranks begin together.
  absl::StatusOr<StepTime> Time(int batch, LaunchObserver* observer) {
    FQ_ASSIGN_OR_RETURN(const CudaGraph graph, model_->CaptureDecode(batch, observer));
    FQ_RETURN_IF_CUDA_ERROR(cudaGraphUpload(graph.exec(), model_->stream()));
    std::vector<double> times;
    for (int repetition = 0; repetition <= options_.repetitions; ++repetition) {
      FQ_RETURN_IF_CUDA_ERROR(cudaStreamSynchronize(model_->stream()));
      FQ_RETURN_IF_ERROR(rank_.group->Barrier(rank_.rank));
      FQ_RETURN_IF_CUDA_ERROR(cudaEventRecord(begin_, model_->stream()));
      for (int i = 0; i < kStepsARepetition; ++i) {
        FQ_RETURN_IF_ERROR(graph.Launch(model_->stream()));
      }
      FQ_RETURN_IF_CUDA_ERROR(cudaEventRecord(end_, model_->stream()));
      FQ_RETURN_IF_CUDA_ERROR(cudaEventSynchronize(end_));
      FQ_RETURN_IF_ERROR(model_->peers()->Check());
      float ms = 0;
      FQ_RETURN_IF_CUDA_ERROR(cudaEventElapsedTime(&ms, begin_, end_));
      if (repetition > 0) {
        times.push_back(static_cast<double>(ms) / kStepsARepetition);
      }
    }
    return SummaryOf(std::move(times));
  }

  const DeviceBenchOptions& options_;
  const CudaRank& rank_;
  std::unique_ptr<CudaBenchModel> model_;
  cudaEvent_t begin_ = nullptr;
  cudaEvent_t end_ = nullptr;
};

// Measurements are rank 0's: the sums make all ranks as fast as the slowest.
absl::Status RunRank(const DeviceBenchOptions& options, const CudaRank& rank,
                     const std::function<absl::Status(int, int)>& progress, DeviceBenchResult& result) {
  RankBench bench(options, rank);
  FQ_RETURN_IF_ERROR(bench.Initialise());
  const bool first = rank.rank == 0;
  if (first) {
    result.device = absl::StrCat(rank.devices.size(), " x ", bench.model().device());
  }
  const auto cases = static_cast<int>(options.batches.size() * options.contexts.size() * options.plans.size());
  int done = 0;
  for (const int64_t context : options.contexts) {
    for (const int batch : options.batches) {
      for (const std::string& plan : options.plans) {
        if (first) {
          FQ_RETURN_IF_ERROR(progress(done++, cases));
        }
        if (!bench.model().Fits(batch, context)) {
          continue;
        }
        FQ_ASSIGN_OR_RETURN(DecodeResult decode, bench.MeasureDecode(batch, context, plan));
        if (first) {
          result.decode.push_back(std::move(decode));
        }
      }
    }
  }
  // No rank's memory goes before all have ended.
  return rank.group->Barrier(rank.rank);
}

}  // namespace

absl::StatusOr<DeviceBenchResult> RunCudaRanksBench(const DeviceBenchOptions& options,
                                                    const std::function<absl::Status(int, int)>& progress) {
  std::vector<int> devices(static_cast<size_t>(options.tensor_parallel));
  std::iota(devices.begin(), devices.end(), options.device);
  FQ_ASSIGN_OR_RETURN(const std::vector<Shard> shards,
                      CutModel(options.config, options.group_size, options.tensor_parallel));
  RankGroup group(options.tensor_parallel, kTimeout);
  ThreadPool threads(options.tensor_parallel);
  DeviceBenchResult result;
  threads.Run([&](int rank) {
    const CudaRank own{&group, shards, devices, rank, absl::Minutes(1)};
    if (const absl::Status status = RunRank(options, own, progress, result); !status.ok()) {
      group.Abort(rank, status);
    }
  });
  FQ_RETURN_IF_ERROR(group.status());
  return result;
}

}  // namespace flexquant::executor
