#ifndef FLEXQUANT_EXECUTOR_CALIBRATION_WORK_H_
#define FLEXQUANT_EXECUTOR_CALIBRATION_WORK_H_

#include <cstdint>
#include <vector>

#include "common/store/model_store.h"
#include "executor/calibrate.h"

namespace flexquant::executor {

// How much there is to compute in a calibration, in multiply-accumulates, so that its progress can be told. Immutable.
class CalibrationWork {
 public:
  // `store` must outlive this.
  CalibrationWork(const ModelStore& store, int num_rungs) : store_(store), num_rungs_(num_rungs) {}

  // One position from `block` on; the head is the block behind the last.
  double OfPass(int block) const;
  // Every rung on one held-back window.
  double OfHoldout(const std::vector<uint32_t>& window) const;
  // All units of work behind the first `units_done`.
  double Left(const CalibrationWindows& windows, uint64_t units_done) const;

 private:
  const ModelStore& store_;
  const int num_rungs_;
};

}  // namespace flexquant::executor

#endif  // FLEXQUANT_EXECUTOR_CALIBRATION_WORK_H_
