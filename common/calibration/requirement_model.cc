#include "common/calibration/requirement_model.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "common/check.h"

namespace flexquant {
namespace {

using Coefficients = RequirementModel::Coefficients;
constexpr size_t kCount = Coefficients().size();
using Row = std::array<double, kCount>;  // 1, then the standardised features
using Matrix = std::array<Row, kCount>;

constexpr double kOutermost = 4;      // of a standardised feature
constexpr double kRidge = 1;          // as if one more row of every feature had been seen, without effect
constexpr double kSmallestKl = 1e-9;  // nats; keeps a rung that equals the top precision in the logarithm's range
constexpr double kLowestLog = -40;    // of a prediction in nats: whatever a file says, it is a number
constexpr double kHighestLog = 5;
constexpr double kMinScale = 1e-6;
constexpr int kMaxIterations = 100;
constexpr double kTolerance = 1e-10;  // relative, of the loss

double Dot(const Row& a, const Row& b) { return std::inner_product(a.begin(), a.end(), b.begin(), 0.0); }

Row Standardised(const RequirementModel& model, const RequirementFeatures& features) {
  Row row;
  row[0] = 1;
  for (size_t i = 0; i < features.size(); ++i) {
    row[i + 1] = std::clamp((features[i] - model.mean[i]) / model.scale[i], -kOutermost, kOutermost);
  }
  return row;
}

// Lower triangle L of L L' = m, in place; m is positive definite.
void Cholesky(Matrix& m) {
  for (size_t j = 0; j < kCount; ++j) {
    for (size_t k = 0; k < j; ++k) {
      m[j][j] -= m[j][k] * m[j][k];
    }
    m[j][j] = std::sqrt(m[j][j]);
    for (size_t i = j + 1; i < kCount; ++i) {
      for (size_t k = 0; k < j; ++k) {
        m[i][j] -= m[i][k] * m[j][k];
      }
      m[i][j] /= m[j][j];
    }
  }
}

Row Solve(const Matrix& lower, Row x) {
  for (size_t i = 0; i < kCount; ++i) {
    for (size_t k = 0; k < i; ++k) {
      x[i] -= lower[i][k] * x[k];
    }
    x[i] /= lower[i][i];
  }
  for (size_t i = kCount; i-- > 0;) {
    for (size_t k = i + 1; k < kCount; ++k) {
      x[i] -= lower[k][i] * x[k];
    }
    x[i] /= lower[i][i];
  }
  return x;
}

class RungFit {
 public:
  // The weights of a gamma regression with log link are all one, so every rung and iteration has the same matrix.
  explicit RungFit(const std::vector<Row>& rows) : rows_(rows) {
    for (const Row& row : rows_) {
      for (size_t i = 0; i < kCount; ++i) {
        for (size_t j = 0; j < kCount; ++j) {
          lower_[i][j] += row[i] * row[j];
        }
      }
    }
    for (size_t i = 1; i < kCount; ++i) {
      lower_[i][i] += kRidge;
    }
    Cholesky(lower_);
  }

  Coefficients Fit(const std::vector<double>& kl) const {
    const double mean = std::accumulate(kl.begin(), kl.end(), 0.0) / static_cast<double>(kl.size());
    Coefficients best{};
    best[0] = std::log(std::max(mean, kSmallestKl));
    double loss = Loss(best, kl);
    for (int iteration = 0; iteration < kMaxIterations; ++iteration) {
      const Row step = Solve(lower_, Gradient(best, kl));
      double next_loss = loss;
      // Halved until it leads down: the matrix is the expected curvature, not that at hand.
      for (double length = 1; length > 1e-6 && !(next_loss < loss); length /= 2) {
        Coefficients next = best;
        for (size_t i = 0; i < kCount; ++i) {
          next[i] -= length * step[i];
        }
        next_loss = Loss(next, kl);
        if (next_loss < loss) {
          best = next;
        }
      }
      const double gain = loss - next_loss;
      if (!(gain > kTolerance * static_cast<double>(kl.size()))) {
        break;
      }
      loss = next_loss;
    }
    double predicted = 0;
    for (const Row& row : rows_) {
      predicted += std::exp(Dot(row, best)) / static_cast<double>(rows_.size());
    }
    best[0] += std::log(std::max(mean, kSmallestKl) / predicted);
    return best;
  }

 private:
  double Loss(const Coefficients& c, const std::vector<double>& kl) const {
    double loss = 0;
    for (size_t i = 0; i < rows_.size(); ++i) {
      const double eta = Dot(rows_[i], c);
      loss += std::max(kl[i], kSmallestKl) * std::exp(-eta) + eta;
    }
    for (size_t i = 1; i < kCount; ++i) {
      loss += kRidge / 2 * c[i] * c[i];
    }
    return loss;
  }

  Row Gradient(const Coefficients& c, const std::vector<double>& kl) const {
    Row gradient{};
    for (size_t i = 0; i < rows_.size(); ++i) {
      const double residual = 1 - std::max(kl[i], kSmallestKl) * std::exp(-Dot(rows_[i], c));
      for (size_t j = 0; j < kCount; ++j) {
        gradient[j] += residual * rows_[i][j];
      }
    }
    for (size_t i = 1; i < kCount; ++i) {
      gradient[i] += kRidge * c[i];
    }
    return gradient;
  }

  const std::vector<Row>& rows_;
  Matrix lower_{};
};

}  // namespace

void RequirementModel::Predict(const RequirementFeatures& features, absl::Span<double> kl) const {
  FQ_CHECK(kl.size() == rungs.size() + 1);
  const Row row = Standardised(*this, features);
  for (size_t r = 0; r < rungs.size(); ++r) {
    kl[r] = std::exp(std::clamp(Dot(row, rungs[r]), kLowestLog, kHighestLog));
  }
  kl[rungs.size()] = 0;
}

RequirementModel FitRequirementModel(absl::Span<const RequirementFeatures> features,
                                     absl::Span<const std::vector<double>> kl) {
  FQ_CHECK(!features.empty());
  RequirementModel model;
  const auto count = static_cast<double>(features.size());
  for (size_t i = 0; i < kRequirementFeatures; ++i) {
    for (const RequirementFeatures& row : features) {
      model.mean[i] += row[i] / count;
    }
    double variance = 0;
    for (const RequirementFeatures& row : features) {
      variance += (row[i] - model.mean[i]) * (row[i] - model.mean[i]) / count;
    }
    model.scale[i] = std::max(std::sqrt(variance), kMinScale);
  }
  std::vector<Row> rows;
  rows.reserve(features.size());
  for (const RequirementFeatures& row : features) {
    rows.push_back(Standardised(model, row));
  }
  const RungFit fit(rows);
  for (const std::vector<double>& rung : kl) {
    FQ_CHECK(rung.size() == features.size());
    model.rungs.push_back(fit.Fit(rung));
  }
  return model;
}

}  // namespace flexquant
