#include "common/calibration/precision_requirement.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace flexquant {
namespace {

constexpr double kSmallest = 1e-12;

// Between (x0, y0) and (x1, y1), straight in logarithms; x between x0 and x1.
double BetweenLogs(double x0, double y0, double x1, double y1, double x) {
  const auto log = [](double v) { return std::log(std::max(v, kSmallest)); };
  const double span = log(x1) - log(x0);
  const double share = span == 0 ? 0 : (log(x) - log(x0)) / span;
  return std::exp(log(y0) + share * (log(y1) - log(y0)));
}

// Where value(point) first reaches `wanted`; values move in one direction along the curve, `reached` says when.
template <typename Value, typename Reached>
double LambdaWhere(const std::vector<CurvePoint>& curve, double wanted, Value value, Reached reached) {
  const auto at = std::partition_point(curve.begin(), curve.end(),
                                       [&](const CurvePoint& point) { return !reached(value(point), wanted); });
  if (at == curve.begin()) {
    return curve.front().lambda;
  }
  if (at == curve.end()) {
    return curve.back().lambda;
  }
  const auto before = at - 1;
  return BetweenLogs(value(*before), before->lambda, value(*at), at->lambda, wanted);
}

}  // namespace

double PrecisionRequirement::LambdaForKl(double mean_kl) const {
  return LambdaWhere(
      curve, mean_kl, [](const CurvePoint& p) { return p.predicted_kl; }, [](double v, double w) { return v <= w; });
}

double PrecisionRequirement::LambdaForBytes(double mean_bytes) const {
  return LambdaWhere(
      curve, mean_bytes, [](const CurvePoint& p) { return p.mean_bytes; }, [](double v, double w) { return v >= w; });
}

double PrecisionRequirement::SafeAim(double max_mean_kl) const {
  const AimPoint& first = aims.front();
  if (first.p95_kl >= max_mean_kl) {
    return std::min(max_mean_kl, first.aim_kl * max_mean_kl / first.p95_kl);
  }
  for (size_t i = 1; i < aims.size(); ++i) {
    if (aims[i].p95_kl > max_mean_kl) {
      return std::min(max_mean_kl,
                      BetweenLogs(aims[i - 1].p95_kl, aims[i - 1].aim_kl, aims[i].p95_kl, aims[i].aim_kl, max_mean_kl));
    }
  }
  return std::min(max_mean_kl, aims.back().aim_kl);
}

}  // namespace flexquant
