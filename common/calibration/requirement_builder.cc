#include "common/calibration/requirement_builder.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>

#include "common/calibration/level_chooser.h"
#include "common/check.h"

namespace flexquant {
namespace {

constexpr size_t kRequestTokens = 128;
constexpr size_t kRequestStride = 32;  // requests overlap: there is not text enough for many that do not
constexpr double kSmallestKl = 1e-9;   // nats, in deviances
constexpr double kWithin = 0.95;       // of the requests

// Lambda in parts of the bytes between the ladder's ends: from where a nat hardly counts to where little else does.
constexpr int kCurvePoints = 57;
constexpr double kLowestLambda = 1e-2;
constexpr double kPointsADecade = 8;

constexpr int kAimsADecade = 4;
constexpr int kLowestAim = -16;  // 1e-4 nats
constexpr int kHighestAim = 4;   // 10 nats

// One position whose features are known at the lookahead.
struct Row {
  RequirementFeatures features;
  size_t position;  // among those of all windows
  size_t fold;
};

std::vector<Row> MakeRows(const HoldoutSamples& samples, int lookahead, const UsedFeatures& used = kAllFeatures) {
  std::vector<Row> rows;
  size_t begin = 0;
  for (size_t w = 0; w < samples.signals.size(); ++w) {
    SignalHistory history;
    const auto& window = samples.signals[w];
    const size_t distance = 1 + static_cast<size_t>(lookahead);
    for (size_t position = distance; position < window.size(); ++position) {
      history.Observe(window[position - distance]);
      RequirementFeatures features = history.Features();
      for (size_t i = 0; i < features.size(); ++i) {
        features[i] = used[i] ? features[i] : 0;
      }
      rows.push_back({features, begin + position, w % 2});
    }
    begin += window.size();
  }
  return rows;
}

template <typename Keep>
RequirementModel FitRows(const HoldoutSamples& samples, const std::vector<Row>& rows, Keep keep) {
  std::vector<RequirementFeatures> features;
  std::vector<std::vector<double>> kl(samples.kl.size());
  for (const Row& row : rows) {
    if (keep(row)) {
      features.push_back(row.features);
      for (size_t r = 0; r < kl.size(); ++r) {
        kl[r].push_back(samples.kl[r][row.position]);
      }
    }
  }
  return FitRequirementModel(features, kl);
}

// Models of either half of the rows, for the rows of the other.
std::array<RequirementModel, 2> CrossFit(const HoldoutSamples& samples, const std::vector<Row>& rows) {
  return {FitRows(samples, rows, [](const Row& row) { return row.fold == 1; }),
          FitRows(samples, rows, [](const Row& row) { return row.fold == 0; })};
}

// What happens to tokens at the levels that policies choose for them.
class Simulation {
 public:
  Simulation(const HoldoutSamples& samples, absl::Span<const double> bytes, const std::vector<Row>& rows)
      : bytes_(bytes) {
    const std::array<RequirementModel, 2> models = CrossFit(samples, rows);
    for (const Row& row : rows) {
      predicted_.emplace_back(bytes.size());
      models[row.fold].Predict(row.features, absl::MakeSpan(predicted_.back()));
      measured_.emplace_back();
      for (const std::vector<double>& rung : samples.kl) {
        measured_.back().push_back(rung[row.position]);
      }
      measured_.back().push_back(0);
    }
  }

  CurvePoint AtLambda(double lambda) const {
    CurvePoint point{lambda, 0, 0, 0};
    const auto count = static_cast<double>(predicted_.size());
    for (size_t i = 0; i < predicted_.size(); ++i) {
      size_t best = 0;
      for (size_t r = 1; r < bytes_.size(); ++r) {
        best = bytes_[r] + lambda * predicted_[i][r] < bytes_[best] + lambda * predicted_[i][best] ? r : best;
      }
      point.mean_bytes += bytes_[best] / count;
      point.predicted_kl += predicted_[i][best] / count;
      point.measured_kl += measured_[i][best] / count;
    }
    return point;
  }

  AimPoint AtAim(double aim, const PrecisionRequirement& requirement) const {
    AimPoint point{aim, 0, 0, 0};
    std::vector<double> requests;
    const size_t length = std::min(kRequestTokens, predicted_.size());
    for (size_t begin = 0; begin + length <= predicted_.size(); begin += kRequestStride) {
      LevelChooser chooser(requirement, bytes_, 0, static_cast<int>(bytes_.size()) - 1,
                           {PrecisionGoal::Kind::kMeanKl, aim});
      double kl = 0;
      for (size_t i = begin; i < begin + length; ++i) {
        chooser.SetNext(predicted_[i]);
        const int level = chooser.Choose();
        chooser.Charge(level);
        kl += measured_[i][static_cast<size_t>(level)] / static_cast<double>(length);
        point.mean_bytes += bytes_[static_cast<size_t>(level)] / static_cast<double>(length);
      }
      requests.push_back(kl);
    }
    std::sort(requests.begin(), requests.end());
    const auto count = static_cast<double>(requests.size());
    point.mean_bytes /= count;
    for (const double kl : requests) {
      point.mean_kl += kl / count;
    }
    point.p95_kl = requests[static_cast<size_t>(std::ceil(kWithin * count)) - 1];
    return point;
  }

 private:
  const absl::Span<const double> bytes_;
  std::vector<std::vector<double>> predicted_;  // [rows][rungs], by the model of the other half
  std::vector<std::vector<double>> measured_;   // [rows][rungs]
};

}  // namespace

RequirementQuality CheckRequirement(const HoldoutSamples& samples, int lookahead) {
  const std::vector<Row> rows = MakeRows(samples, lookahead);
  const std::array<RequirementModel, 2> models = CrossFit(samples, rows);
  struct Pair {
    double relative;
    double predicted;
    double measured;
  };
  std::vector<Pair> pairs;
  RequirementQuality quality;
  std::vector<double> predicted(samples.kl.size() + 1);
  std::array<std::vector<double>, 2> means;  // of the rows that a model was fitted on
  for (size_t fold = 0; fold < 2; ++fold) {
    for (const std::vector<double>& rung : samples.kl) {
      double sum = 0;
      double count = 0;
      for (const Row& row : rows) {
        sum += row.fold != fold ? rung[row.position] : 0;
        count += row.fold != fold ? 1 : 0;
      }
      means[fold].push_back(std::max(sum / count, kSmallestKl));
    }
  }
  const double count = static_cast<double>(rows.size() * samples.kl.size());
  for (const Row& row : rows) {
    models[row.fold].Predict(row.features, absl::MakeSpan(predicted));
    for (size_t r = 0; r < samples.kl.size(); ++r) {
      const double measured = samples.kl[r][row.position];
      const auto deviance = [&](double expected) {
        const double ratio = std::max(measured, kSmallestKl) / expected;
        return 2 * (ratio - 1 - std::log(ratio)) / count;
      };
      quality.deviance += deviance(predicted[r]);
      quality.constant_deviance += deviance(means[row.fold][r]);
      pairs.push_back({predicted[r] / means[row.fold][r], predicted[r], measured});
    }
  }
  std::stable_sort(pairs.begin(), pairs.end(), [](const Pair& a, const Pair& b) { return a.relative < b.relative; });
  for (size_t tenth = 0; tenth < 10; ++tenth) {
    auto& [mean_predicted, mean_measured] = quality.tenths.emplace_back();
    const size_t begin = tenth * pairs.size() / 10;
    const size_t end = (tenth + 1) * pairs.size() / 10;
    for (size_t i = begin; i < end; ++i) {
      mean_predicted += pairs[i].predicted / static_cast<double>(end - begin);
      mean_measured += pairs[i].measured / static_cast<double>(end - begin);
    }
  }
  return quality;
}

PrecisionRequirement BuildRequirement(const HoldoutSamples& samples, absl::Span<const double> bytes, int lookahead,
                                      const UsedFeatures& used) {
  FQ_CHECK(samples.signals.size() >= 2 && bytes.size() == samples.kl.size() + 1);
  const std::vector<Row> rows = MakeRows(samples, lookahead, used);
  PrecisionRequirement requirement;
  requirement.model = FitRows(samples, rows, [](const Row&) { return true; });
  const Simulation simulation(samples, bytes, rows);
  const double range = std::max(bytes.back() - bytes.front(), 1.0);
  for (int i = 0; i < kCurvePoints; ++i) {
    CurvePoint point = simulation.AtLambda(range * kLowestLambda * std::pow(10, i / kPointsADecade));
    if (i > 0) {  // what holds of the sums holds but for rounding of their floating-point values
      point.mean_bytes = std::max(point.mean_bytes, requirement.curve.back().mean_bytes);
      point.predicted_kl = std::min(point.predicted_kl, requirement.curve.back().predicted_kl);
    }
    requirement.curve.push_back(point);
  }
  for (int i = kLowestAim; i <= kHighestAim; ++i) {
    const double aim = std::pow(10, static_cast<double>(i) / kAimsADecade);
    requirement.aims.push_back(simulation.AtAim(aim, requirement));
    if (aim >= requirement.curve.front().predicted_kl) {
      break;  // the cheapest level always: a higher aim changes nothing
    }
  }
  return requirement;
}

}  // namespace flexquant
