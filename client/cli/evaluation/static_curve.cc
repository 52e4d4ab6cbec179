#include "client/cli/evaluation/static_curve.h"

#include <algorithm>
#include <cmath>

#include "common/check.h"

namespace flexquant::cli {

StaticCurve::StaticCurve(std::vector<Point> points) {
  FQ_CHECK(!points.empty());
  std::sort(points.begin(), points.end(),
            [](const Point& a, const Point& b) { return a.bytes != b.bytes ? a.bytes < b.bytes : a.kl < b.kl; });
  for (const Point& point : points) {
    if (points_.empty() || point.kl < points_.back().kl) {
      points_.push_back(point);
    }
  }
}

double StaticCurve::KlAt(double bytes) const {
  if (bytes <= points_.front().bytes) {
    return points_.front().kl;
  }
  for (size_t i = 1; i < points_.size(); ++i) {
    const Point& a = points_[i - 1];
    const Point& b = points_[i];
    if (bytes <= b.bytes) {
      const double part = (bytes - a.bytes) / (b.bytes - a.bytes);
      return b.kl > 0 ? a.kl * std::pow(b.kl / a.kl, part) : a.kl + (b.kl - a.kl) * part;
    }
  }
  return points_.back().kl;
}

double StaticCurve::BytesAt(double kl) const {
  if (kl >= points_.front().kl) {
    return points_.front().bytes;
  }
  for (size_t i = 1; i < points_.size(); ++i) {
    const Point& a = points_[i - 1];
    const Point& b = points_[i];
    if (kl >= b.kl) {
      const double part = b.kl > 0 ? std::log(kl / a.kl) / std::log(b.kl / a.kl) : (kl - a.kl) / (b.kl - a.kl);
      return a.bytes + (b.bytes - a.bytes) * part;
    }
  }
  return points_.back().bytes;
}

}  // namespace flexquant::cli
