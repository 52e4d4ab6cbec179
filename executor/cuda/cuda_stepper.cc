#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "executor/cuda/cuda_bench.h"
#include "executor/cuda/cuda_bench_model.h"

namespace flexquant::executor {
namespace {

class CudaStepper : public DecodeStepper {
 public:
  CudaStepper(std::unique_ptr<CudaBenchModel> model, int batch, int64_t context)
      : model_(std::move(model)), batch_(batch), context_(context) {}

  absl::Status Prepare() {
    model_->SetSequences(batch_, context_);
    FQ_ASSIGN_OR_RETURN(graph_, model_->CaptureDecode(batch_));
    return absl::OkStatus();
  }

  const std::string& device() const override { return model_->device(); }
  absl::Status Start(int64_t /*step*/, const PrecisionPlan& plan) override {
    uint8_t* widths = model_->arrays().widths();
    for (size_t group = 0; group < plan.bits.size(); ++group) {
      std::fill_n(widths + group * cuda::kMaxGemvRows, batch_, plan.bits[group]);
    }
    FQ_RETURN_IF_ERROR(model_->Upload(batch_, context_));
    return graph_.Launch(model_->stream());
  }
  absl::Status Finish() override { return CudaStatus(cudaStreamSynchronize(model_->stream()), "a step"); }

 private:
  std::unique_ptr<CudaBenchModel> model_;
  CudaGraph graph_;
  const int batch_;
  const int64_t context_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<DecodeStepper>> MakeCudaStepper(const DeviceBenchOptions& options) {
  FQ_ASSIGN_OR_RETURN(auto model, CudaBenchModel::Create(options));
  const int batch = options.batches[0];
  const int64_t context = options.contexts[0];
  if (!model->Fits(batch, context)) {
    return absl::ResourceExhaustedError(absl::StrCat("the KV cache of ", batch, " sequences of ", context,
                                                     " tokens does not fit into the memory of ", model->device(),
                                                     "; lower the batch or the context"));
  }
  auto stepper = std::make_unique<CudaStepper>(std::move(model), batch, context);
  FQ_RETURN_IF_ERROR(stepper->Prepare());
  return stepper;
}

}  // namespace flexquant::executor
