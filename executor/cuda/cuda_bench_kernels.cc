#include "executor/cuda/cuda_bench_kernels.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "common/status_macros.h"
#include "executor/cuda/cuda_bench.h"
#include "executor/cuda/device_memory.h"

namespace flexquant::executor {
namespace {

// Finds the places of a step and counts their kernels, in graphs that never run.
class Census : public LaunchObserver {
 public:
  explicit Census(cudaStream_t stream) : stream_(stream) {}
  const std::vector<KernelTime>& places() const { return places_; }

  bool dependent_launch() const override { return false; }
  absl::Status Launch(absl::string_view kernel, absl::FunctionRef<absl::Status()> launch) override {
    FQ_RETURN_IF_CUDA_ERROR(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
    const absl::Status launched = launch();
    cudaGraph_t graph = nullptr;
    const cudaError_t ended = cudaStreamEndCapture(stream_, &graph);
    FQ_RETURN_IF_ERROR(launched);
    FQ_RETURN_IF_ERROR(CudaStatus(ended, "capturing a kernel"));
    size_t nodes = 0;
    const cudaError_t counted = cudaGraphGetNodes(graph, nullptr, &nodes);
    cudaGraphDestroy(graph);
    FQ_RETURN_IF_ERROR(CudaStatus(counted, "counting kernels"));
    if (nodes > 0) {
      auto place =
          std::find_if(places_.begin(), places_.end(), [&](const KernelTime& known) { return known.name == kernel; });
      place = place == places_.end() ? places_.insert(place, KernelTime{std::string(kernel), 0, 0, 0, 0}) : place;
      place->launches += static_cast<int>(nodes);
    }
    return absl::OkStatus();
  }

 private:
  cudaStream_t stream_;
  std::vector<KernelTime> places_;
};

// Records an event in front of every launch, and one at the end of the step.
class EventRecorder : public LaunchObserver {
 public:
  explicit EventRecorder(cudaStream_t stream) : stream_(stream) {}
  EventRecorder(const EventRecorder&) = delete;
  EventRecorder& operator=(const EventRecorder&) = delete;
  ~EventRecorder() override {
    for (const cudaEvent_t event : events_) {
      cudaEventDestroy(event);
    }
  }

  bool dependent_launch() const override { return false; }
  absl::Status Launch(absl::string_view kernel, absl::FunctionRef<absl::Status()> launch) override {
    FQ_RETURN_IF_ERROR(Record(kernel));
    return launch();
  }

  absl::Status Finish() {
    FQ_RETURN_IF_ERROR(Record(""));
    return CudaStatus(cudaStreamSynchronize(stream_), "timing kernels");
  }
  void Restart() { names_.clear(); }

  // us of a step.
  absl::StatusOr<double> Microseconds(absl::string_view kernel) const {
    double sum = 0;
    for (size_t i = 0; i + 1 < names_.size(); ++i) {
      if (names_[i] == kernel) {
        float ms = 0;
        FQ_RETURN_IF_CUDA_ERROR(cudaEventElapsedTime(&ms, events_[i], events_[i + 1]));
        sum += 1e3 * static_cast<double>(ms);
      }
    }
    return sum;
  }

 private:
  absl::Status Record(absl::string_view kernel) {
    if (names_.size() == events_.size()) {
      events_.push_back(nullptr);
      FQ_RETURN_IF_CUDA_ERROR(cudaEventCreate(&events_.back()));
    }
    FQ_RETURN_IF_CUDA_ERROR(cudaEventRecord(events_[names_.size()], stream_));
    names_.emplace_back(kernel);
    return absl::OkStatus();
  }

  cudaStream_t stream_;
  std::vector<cudaEvent_t> events_;
  std::vector<std::string> names_;  // of the launches behind the events of this step
};

double Median(std::vector<double> values) { return SummaryOf(std::move(values)).median; }

// Every place with events between launches, and the events alone.
absl::Status MeasureAlone(const KernelBench& bench, KernelTable& table) {
  constexpr char kNothing[] = "nothing";
  constexpr int kNothings = 100;
  std::vector<std::vector<double>> times(table.kernels.size());
  std::vector<double> nothing;
  EventRecorder recorder(bench.stream);
  for (int repetition = 0; repetition <= bench.repetitions; ++repetition) {
    recorder.Restart();
    FQ_RETURN_IF_ERROR(bench.occupy());
    FQ_RETURN_IF_ERROR(bench.launch(&recorder));
    for (int i = 0; i < kNothings; ++i) {
      FQ_RETURN_IF_ERROR(recorder.Launch(kNothing, [] { return absl::OkStatus(); }));
    }
    FQ_RETURN_IF_ERROR(recorder.Finish());
    if (repetition == 0) {
      continue;
    }
    for (size_t i = 0; i < table.kernels.size(); ++i) {
      FQ_ASSIGN_OR_RETURN(const double us, recorder.Microseconds(table.kernels[i].name));
      times[i].push_back(us);
    }
    FQ_ASSIGN_OR_RETURN(const double us, recorder.Microseconds(kNothing));
    nothing.push_back(us / kNothings);
  }
  for (size_t i = 0; i < table.kernels.size(); ++i) {
    table.kernels[i].alone_us = Median(std::move(times[i]));
  }
  table.event_us = Median(std::move(nothing));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<KernelTable> MeasureKernels(const KernelBench& bench) {
  Census census(bench.stream);
  FQ_RETURN_IF_ERROR(bench.launch(&census));
  KernelTable table{census.places(), 0};
  FQ_RETURN_IF_ERROR(MeasureAlone(bench, table));
  for (KernelTime& kernel : table.kernels) {
    Omission omission(kernel.name);
    FQ_ASSIGN_OR_RETURN(const CudaGraph graph,
                        CudaGraph::Capture(bench.stream, [&] { return bench.launch(&omission); }));
    FQ_ASSIGN_OR_RETURN(const StepTime without, bench.time([&] { return graph.Launch(bench.stream); }));
    kernel.in_step_us = 1e3 * (bench.step.median - without.median);
  }
  return table;
}

}  // namespace flexquant::executor
