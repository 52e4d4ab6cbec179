#include "client/cli/policy_figures.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "common/check.h"

namespace flexquant::cli {
namespace {

double Sum(const std::vector<double>& values) { return std::accumulate(values.begin(), values.end(), 0.0); }

// What the means need of a window.
struct WindowSums {
  double kl = 0;
  double nll = 0;
  double bytes = 0;
  uint64_t agreeing = 0;
};

std::vector<WindowSums> SumWindows(const PolicyOutcome& outcome, const controller::LayerGroups& groups) {
  std::vector<WindowSums> sums;
  for (const WindowOutcome& window : outcome) {
    sums.push_back({Sum(window.kl), Sum(window.nll), 0, 0});
    for (size_t i = 0; i < window.plans.size(); ++i) {
      sums.back().bytes += static_cast<double>(groups.BytesRead(window.plans[i]));
      sums.back().agreeing += window.agrees[i];
    }
  }
  return sums;
}

Figures OfWindows(const PolicyOutcome& outcome, const std::vector<WindowSums>& sums, double budget,
                  absl::Span<const uint32_t> windows) {
  Figures figures;
  std::vector<double> kl;
  uint64_t agreeing = 0;
  uint64_t within = 0;
  uint64_t scored = 0;
  double nll = 0;
  for (const uint32_t w : windows) {
    const WindowOutcome& window = outcome[w];
    kl.insert(kl.end(), window.kl.begin(), window.kl.end());
    figures.mean_kl += sums[w].kl;
    figures.bytes += sums[w].bytes;
    nll += sums[w].nll;
    scored += window.nll.size();
    agreeing += sums[w].agreeing;
    if (window.kl.size() >= kRequestTokens) {
      ++figures.requests;
      within += sums[w].kl <= budget * static_cast<double>(window.kl.size()) ? 1 : 0;
    }
  }
  const auto count = static_cast<double>(kl.size());
  const auto quantile = [&kl](size_t rank) {
    std::nth_element(kl.begin(), kl.begin() + static_cast<std::ptrdiff_t>(rank), kl.end());
    return kl[rank];
  };
  figures.tokens = kl.size();
  figures.mean_kl /= count;
  figures.bytes /= count;
  figures.median_kl = quantile(kl.size() / 2);
  figures.p99_kl = quantile(static_cast<size_t>(0.99 * (count - 1)));
  figures.max_kl = *std::max_element(kl.begin(), kl.end());
  figures.agreement = static_cast<double>(agreeing) / count;
  figures.perplexity = std::exp(nll / static_cast<double>(std::max<uint64_t>(1, scored)));
  figures.within = static_cast<double>(within) / static_cast<double>(figures.requests);
  return figures;
}

}  // namespace

double Figures::MeanBits(const controller::LayerGroups& groups) const {
  return kTopPrecision * bytes /
         static_cast<double>(groups.BytesRead(PrecisionPlan::Uniform(kTopPrecision, groups.count())));
}

Resampler::Resampler(size_t count, uint64_t seed) : draws_(kDraws, std::vector<uint32_t>(count)) {
  FQ_CHECK(count > 0);
  std::mt19937_64 random(seed);
  for (std::vector<uint32_t>& draw : draws_) {
    for (uint32_t& unit : draw) {
      unit = static_cast<uint32_t>(random() % count);
    }
  }
}

Interval MiddlePart(std::vector<double> values, double part) {
  std::erase_if(values, [](double value) { return !std::isfinite(value); });
  if (values.empty()) {
    return {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::quiet_NaN()};
  }
  std::sort(values.begin(), values.end());
  const auto outside = static_cast<size_t>(static_cast<double>(values.size()) * (1 - part) / 2 + 1e-6);
  return {values[outside], values[values.size() - 1 - outside]};
}

Interval PolicyFigures::Of(const std::function<double(const Figures&)>& value) const {
  std::vector<double> values;
  for (const Figures& draw : draws) {
    values.push_back(value(draw));
  }
  return MiddlePart(std::move(values));
}

PolicyFigures ComputeFigures(const PolicyOutcome& outcome, double budget, const controller::LayerGroups& groups,
                             const Resampler& resampler) {
  const std::vector<WindowSums> sums = SumWindows(outcome, groups);
  std::vector<uint32_t> every(outcome.size());
  std::iota(every.begin(), every.end(), 0U);
  PolicyFigures figures{OfWindows(outcome, sums, budget, every), {}};
  for (const std::vector<uint32_t>& draw : resampler.draws()) {
    FQ_CHECK(draw.size() == outcome.size());
    figures.draws.push_back(OfWindows(outcome, sums, budget, draw));
  }
  return figures;
}

}  // namespace flexquant::cli
