#include "executor/calibrate.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/calibration/ladder_builder.h"
#include "common/calibration/requirement_builder.h"
#include "common/rescoring.h"
#include "common/status_macros.h"
#include "executor/calibration_forward.h"
#include "executor/calibration_work.h"

namespace flexquant::executor {
namespace {

void AddLoss(const std::vector<PositionDivergence>& divergences, CalibrationProgress::LossSum* sum) {
  for (const PositionDivergence& position : divergences) {
    sum->kl += position.kl_nats;
  }
  sum->positions += divergences.size();
}

class Calibrator {
 public:
  Calibrator(const ModelStore& store, const CalibrationWindows& windows, const CalibrateOptions& options,
             CalibrationProgress progress)
      : store_(store),
        windows_(windows),
        options_(options),
        progress_(std::move(progress)),
        num_layers_(static_cast<int>(store.config().num_layers)),
        work_(store, options.num_rungs) {}

  absl::StatusOr<CalibrateResult> Run();

 private:
  absl::Status Start();
  absl::Status CheckProgress() const;
  absl::Status MeasureSensitivities();
  absl::Status MeasureUnit(int block);
  absl::Status MeasureRungs();
  absl::Status FinishUnit();

  // Units of work in front of the held-back windows: the blocks and the head of each window.
  uint64_t SensitivityUnits() const { return windows_.sensitivity.size() * static_cast<uint64_t>(num_layers_ + 1); }
  void Report(double done, const std::string& what);

  std::vector<Rung> PlanRungs() const;
  // The precision requirement model of the calibration's rungs.
  void FitRequirements(CalibrateResult& result) const;

  const ModelStore& store_;
  const CalibrationWindows& windows_;
  const CalibrateOptions& options_;
  CalibrationProgress progress_;
  const int num_layers_;
  const CalibrationWork work_;
  std::unique_ptr<CalibrationForward> forward_;
  std::vector<Rung> rungs_;  // not measured; from the top down
  double work_done_ = 0;     // in this run
  double work_total_ = 0;
};

absl::StatusOr<CalibrateResult> Calibrator::Run() {
  FQ_RETURN_IF_ERROR(Start());
  work_total_ = work_.Left(windows_, progress_.units_done);
  FQ_RETURN_IF_ERROR(MeasureSensitivities());
  rungs_ = PlanRungs();
  FQ_RETURN_IF_ERROR(MeasureRungs());
  CalibrateResult result;
  result.measured = rungs_;
  for (size_t r = 0; r < rungs_.size(); ++r) {
    progress_.rungs[r].Summarise(&result.measured[r]);
  }
  Calibration& calibration = result.calibration;
  calibration.bucket_positions = progress_.bucket_positions;
  calibration.positions = progress_.Positions();
  calibration.holdout_positions = progress_.rungs.front().kl.size();
  calibration.sensitivities = progress_.Sensitivities();
  calibration.rungs = MonotoneRungs(result.measured);
  calibration.backend_loss = {progress_.coarse_prompts.Mean(), progress_.kv_cache_8.Mean()};
  FitRequirements(result);
  return result;
}

void Calibrator::FitRequirements(CalibrateResult& result) const {
  Calibration& calibration = result.calibration;
  HoldoutSamples samples{progress_.holdout_signals, {}};
  std::vector<double> bytes;
  for (const Rung& rung : calibration.rungs) {
    bytes.push_back(static_cast<double>(rung.bytes));
    if (bytes.size() < calibration.rungs.size()) {
      const auto measured =
          std::find_if(rungs_.begin(), rungs_.end(), [&](const Rung& r) { return r.plan == rung.plan; });
      samples.kl.push_back(progress_.rungs[static_cast<size_t>(measured - rungs_.begin())].kl);
    }
  }
  for (size_t lookahead = 0; lookahead < calibration.requirements.size(); ++lookahead) {
    calibration.requirements[lookahead] = BuildRequirement(samples, bytes, static_cast<int>(lookahead));
    result.quality[lookahead] = CheckRequirement(samples, static_cast<int>(lookahead));
  }
}

absl::Status Calibrator::Start() {
  CalibrationForward::Options options;
  options.num_threads = options_.num_threads;
  options.isa = options_.isa;
  options.rescore = options_.rescore;
  options.mapped_weights = options_.mapped_weights;
  options.cancelled = options_.cancelled;
  size_t longest = 0;
  for (const auto* windows : {&windows_.sensitivity, &windows_.holdout}) {
    if (windows->empty()) {
      return absl::InvalidArgumentError("there are no windows to calibrate on; at least one of each kind is needed");
    }
    for (const std::vector<uint32_t>& window : *windows) {
      longest = std::max(longest, window.size());
    }
  }
  if (windows_.holdout.size() < 2 || std::any_of(windows_.holdout.begin(), windows_.holdout.end(),
                                                 [](const auto& w) { return w.size() <= kMinHoldoutPositions; })) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the precision requirement model needs at least two held-back windows of ", kMinHoldoutPositions + 1,
        " tokens or more, to check one half with the other; give more --holdout or a longer --window"));
  }
  options.max_positions = static_cast<int64_t>(longest) - 1;
  FQ_ASSIGN_OR_RETURN(forward_, CalibrationForward::Create(store_, std::move(options)));
  if (progress_.units_done == 0) {
    progress_.sums.resize(static_cast<size_t>(store_.num_layer_groups()));
  }
  return CheckProgress();
}

absl::Status Calibrator::CheckProgress() const {
  const uint64_t holdout_units = progress_.units_done - std::min(progress_.units_done, SensitivityUnits());
  bool fits = progress_.sums.size() == static_cast<size_t>(store_.num_layer_groups()) &&
              holdout_units <= windows_.holdout.size() && (holdout_units == 0 || !progress_.rungs.empty()) &&
              progress_.holdout_signals.size() == holdout_units;
  size_t positions = 0;
  for (size_t i = 0; fits && i < holdout_units; ++i) {
    const size_t of_window = windows_.holdout[i].size() - 1;
    fits = progress_.holdout_signals[i].size() == of_window;
    positions += of_window;
  }
  for (const CalibrationProgress::RungSamples& rung : progress_.rungs) {
    fits = fits && rung.kl.size() == positions;
  }
  return fits ? absl::OkStatus()
              : absl::InvalidArgumentError(
                    "what the interrupted calibration left does not fit this model and text; calibrate with --restart");
}

absl::Status Calibrator::MeasureSensitivities() {
  const uint64_t units_a_window = static_cast<uint64_t>(num_layers_) + 1;
  while (progress_.units_done < SensitivityUnits()) {
    const std::vector<uint32_t>& window = windows_.sensitivity[progress_.units_done / units_a_window];
    FQ_RETURN_IF_ERROR(forward_->SetWindow(window));
    if (progress_.units_done % units_a_window == 0) {
      for (const TopPosition& position : forward_->top()) {
        ++progress_.bucket_positions[EntropyBucket(position.signals.entropy_nats)];
      }
    }
    do {
      FQ_RETURN_IF_ERROR(MeasureUnit(static_cast<int>(progress_.units_done % units_a_window)));
      FQ_RETURN_IF_ERROR(FinishUnit());
    } while (progress_.units_done % units_a_window != 0);
  }
  return absl::OkStatus();
}

// Each layer group of a block, or the head, at each lower precision.
absl::Status Calibrator::MeasureUnit(int block) {
  const int first = block * kLayerGroupsPerBlock;
  const int count = block == num_layers_ ? 1 : kLayerGroupsPerBlock;
  // Counted only once the unit is whole: what is saved must not hold parts of one.
  std::vector<CalibrationProgress::GroupSums> sums(static_cast<size_t>(count));
  PrecisionPlan plan = PrecisionPlan::Uniform(kTopPrecision, store_.num_layer_groups());
  const double work = work_.OfPass(block);
  double done = 0;
  for (int group = first; group < first + count; ++group) {
    uint8_t& bits = plan.bits[static_cast<size_t>(group)];
    for (size_t w = 0; w < kLowerPrecisions.size(); ++w) {
      Report(done, LayerGroupName(group, num_layers_));
      bits = static_cast<uint8_t>(kLowerPrecisions[w]);
      FQ_ASSIGN_OR_RETURN(const auto divergences, forward_->Measure(plan));
      for (size_t i = 0; i < divergences.size(); ++i) {
        sums[static_cast<size_t>(group - first)][w][EntropyBucket(forward_->top()[i].signals.entropy_nats)] +=
            divergences[i].kl_nats;
      }
      done += work * static_cast<double>(divergences.size());
    }
    bits = kTopPrecision;
  }
  for (size_t g = 0; g < sums.size(); ++g) {
    for (size_t w = 0; w < kLowerPrecisions.size(); ++w) {
      for (size_t bucket = 0; bucket < kEntropyBuckets; ++bucket) {
        progress_.sums[static_cast<size_t>(first) + g][w][bucket] += sums[g][w][bucket];
      }
    }
  }
  work_done_ += done;
  return absl::OkStatus();
}

absl::Status Calibrator::MeasureRungs() {
  if (progress_.rungs.empty()) {
    progress_.rungs.resize(rungs_.size());
  } else if (progress_.rungs.size() != rungs_.size()) {
    return absl::InvalidArgumentError(absl::StrCat("the interrupted calibration measured ", progress_.rungs.size(),
                                                   " rungs, this one has ", rungs_.size(),
                                                   "; calibrate with --restart"));
  }
  while (progress_.units_done < SensitivityUnits() + windows_.holdout.size()) {
    const std::vector<uint32_t>& window = windows_.holdout[progress_.units_done - SensitivityUnits()];
    FQ_RETURN_IF_ERROR(forward_->SetWindow(window));
    std::vector<CalibrationProgress::RungSamples> samples = progress_.rungs;
    std::vector<TokenSignals> signals;
    for (const TopPosition& position : forward_->top()) {
      signals.push_back(position.signals);
    }
    const double work = work_.OfHoldout(window);
    for (size_t r = 0; r < rungs_.size(); ++r) {
      Report(work * static_cast<double>(r) / static_cast<double>(rungs_.size()),
             absl::StrCat("rung ", r + 1, " of ", rungs_.size()));
      FQ_ASSIGN_OR_RETURN(const auto divergences, forward_->Measure(rungs_[r].plan));
      for (const PositionDivergence& position : divergences) {
        samples[r].kl.push_back(position.kl_nats);
        samples[r].agreements += position.top1_agrees ? 1 : 0;
        samples[r].nll_nats += position.nll_nats;
      }
    }
    FQ_ASSIGN_OR_RETURN(const auto kv_cache_8, forward_->MeasureKvCache8());
    FQ_ASSIGN_OR_RETURN(const auto coarse_prompts, forward_->MeasureCoarsePrompts());
    AddLoss(kv_cache_8, &progress_.kv_cache_8);
    AddLoss(coarse_prompts, &progress_.coarse_prompts);
    progress_.rungs = std::move(samples);
    progress_.holdout_signals.push_back(std::move(signals));
    work_done_ += work;
    FQ_RETURN_IF_ERROR(FinishUnit());
  }
  Report(0, "done");
  return absl::OkStatus();
}

absl::Status Calibrator::FinishUnit() {
  ++progress_.units_done;
  return options_.save ? options_.save(progress_) : absl::OkStatus();
}

void Calibrator::Report(double done, const std::string& what) {
  if (options_.progress) {
    constexpr double kBillion = 1e9;
    options_.progress(static_cast<uint64_t>((work_done_ + done) / kBillion),
                      static_cast<uint64_t>(std::ceil(work_total_ / kBillion)), what);
  }
}

std::vector<Rung> Calibrator::PlanRungs() const {
  std::vector<GroupBytes> bytes(progress_.sums.size());
  for (size_t group = 0; group < bytes.size(); ++group) {
    for (size_t level = 0; level < kPrecisions.size(); ++level) {
      bytes[group][level] = store_.layer_group(static_cast<int>(group)).BytesRead(kPrecisions[level]);
    }
  }
  for (size_t level = 0; level < kPrecisions.size() && options_.rescore; ++level) {
    bytes.back()[level] = HeadBytesRead(store_.lm_head(), kPrecisions[level]);
  }
  return ThinOut(GreedyPath(progress_.Sensitivities(), bytes), options_.num_rungs);
}

}  // namespace

absl::StatusOr<CalibrateResult> Calibrate(const ModelStore& store, const CalibrationWindows& windows,
                                          const CalibrateOptions& options, CalibrationProgress progress) {
  return Calibrator(store, windows, options, std::move(progress)).Run();
}

}  // namespace flexquant::executor
