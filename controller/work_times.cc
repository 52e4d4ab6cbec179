#include "controller/work_times.h"

#include <cstddef>
#include <cstdint>

namespace flexquant::controller {
namespace {

// What a step counts less with each that follows: some thousand steps are remembered.
constexpr double kDecay = 0.999;
// Below this part of the largest it could be, the determinant says that all steps were alike.
constexpr double kMinDeterminant = 1e-4;

}  // namespace

StepWork WorkOf(const LayerGroups& groups, const std::vector<SequenceStep>& steps, bool coarse_prompts) {
  StepWork work;
  for (int group = 0; group < groups.count(); ++group) {
    const bool head = group + 1 == groups.count();
    uint32_t widths = 0;
    double rows = 0;
    for (const SequenceStep& step : steps) {
      const int bits = step.plan.bits[static_cast<size_t>(group)];
      const double tokens = head || step.token_ids.empty() ? 1 : static_cast<double>(step.token_ids.size());
      if (head && !step.sample) {
        continue;
      }
      widths |= 1U << static_cast<uint32_t>(bits);
      const bool coarse = coarse_prompts && !head && !step.token_ids.empty();
      rows += tokens * (coarse ? 1 : groups.ActivationRows(bits));
    }
    for (int bits = 0; bits <= kReferencePrecision; ++bits) {
      if ((widths >> static_cast<uint32_t>(bits) & 1U) != 0) {
        work.bytes += static_cast<double>(groups.BytesRead(group, bits));
      }
    }
    work.products += rows * static_cast<double>(groups.num_weights()[static_cast<size_t>(group)]);
  }
  return work;
}

void WorkTimes::Observe(const StepWork& work, absl::Duration compute_time) {
  if (compute_time < absl::Microseconds(1) || compute_time > absl::Hours(1) || work.bytes <= 0) {
    return;
  }
  const double seconds = absl::ToDoubleSeconds(compute_time);
  const double bytes = work.bytes / seconds;
  const double products = work.products / seconds;
  bytes_bytes_ = kDecay * bytes_bytes_ + bytes * bytes;
  bytes_products_ = kDecay * bytes_products_ + bytes * products;
  products_products_ = kDecay * products_products_ + products * products;
  bytes_ = kDecay * bytes_ + bytes;
  products_ = kDecay * products_ + products;
  const double determinant = bytes_bytes_ * products_products_ - bytes_products_ * bytes_products_;
  const bool distinct = determinant > kMinDeterminant * bytes_bytes_ * products_products_;
  if (observed_ < kMinSteps - 1 || (distinct && !known())) {
    ++observed_;
  }
  if (distinct) {
    seconds_per_byte_ = (bytes_ * products_products_ - products_ * bytes_products_) / determinant;
    seconds_per_product_ = (products_ * bytes_bytes_ - bytes_ * bytes_products_) / determinant;
    // Neither can be negative: then the other one explains it all.
    if (seconds_per_byte_ < 0) {
      seconds_per_byte_ = 0;
      seconds_per_product_ = products_ / products_products_;
    } else if (seconds_per_product_ < 0) {
      seconds_per_product_ = 0;
      seconds_per_byte_ = bytes_ / bytes_bytes_;
    }
  }
}

}  // namespace flexquant::controller
