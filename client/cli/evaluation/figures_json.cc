#include "client/cli/evaluation/figures_json.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <numeric>
#include <utility>

#include "client/cli/evaluation/static_curve.h"
#include "common/check.h"

namespace flexquant::cli {
namespace {

constexpr size_t kTenths = 10;
constexpr double kClaimPart = 0.99;

Json RatioJson(double value, const std::vector<double>& draws) {
  Json json = WithInterval(value, MiddlePart(draws));
  json["high_99"] = MiddlePart(draws, kClaimPart).high;
  return json;
}

StaticCurve CurveOf(const std::vector<const MeasuredPolicy*>& plans,
                    const std::function<const Figures&(const PolicyFigures&)>& part) {
  std::vector<StaticCurve::Point> points;
  for (const MeasuredPolicy* plan : plans) {
    const Figures& figures = part(plan->figures);
    points.push_back({figures.bytes, figures.mean_kl});
  }
  return StaticCurve(std::move(points));
}

// Sums of one window in one tenth.
struct Part {
  double predicted = 0;
  double measured = 0;
  uint64_t tokens = 0;
};
using Parts = std::array<Part, kTenths>;

// Of each window; tokens go to tenths by rank.
std::vector<Parts> SumTenths(const PolicyOutcome& outcome) {
  struct Token {
    double predicted;
    size_t window;
    size_t at;
  };
  std::vector<Token> tokens;
  for (size_t w = 0; w < outcome.size(); ++w) {
    for (size_t i = 0; i < outcome[w].predicted_kl.size(); ++i) {
      tokens.push_back({outcome[w].predicted_kl[i], w, i});
    }
  }
  std::stable_sort(tokens.begin(), tokens.end(),
                   [](const Token& a, const Token& b) { return a.predicted < b.predicted; });
  std::vector<Parts> parts(outcome.size());
  for (size_t rank = 0; rank < tokens.size(); ++rank) {
    const Token& token = tokens[rank];
    Part& part = parts[token.window][rank * kTenths / tokens.size()];
    part.predicted += token.predicted;
    part.measured += outcome[token.window].kl[token.at];
    ++part.tokens;
  }
  return parts;
}

}  // namespace

Json WithInterval(double value, const Interval& interval) {
  return {{"value", value}, {"low", interval.low}, {"high", interval.high}};
}

Json MeanWithInterval(const std::vector<double>& values, const Resampler& resampler) {
  const auto count = static_cast<double>(values.size());
  std::vector<double> draws;
  for (const std::vector<uint32_t>& draw : resampler.draws()) {
    double sum = 0;
    for (const uint32_t i : draw) {
      sum += values[i];
    }
    draws.push_back(sum / count);
  }
  return WithInterval(std::accumulate(values.begin(), values.end(), 0.0) / count, MiddlePart(std::move(draws)));
}

Json PairedRatio(const std::function<double(const Figures&)>& value, const PolicyFigures& of,
                 const PolicyFigures& against) {
  FQ_CHECK(of.draws.size() == against.draws.size());
  std::vector<double> ratios;
  for (size_t i = 0; i < of.draws.size(); ++i) {
    ratios.push_back(value(of.draws[i]) / value(against.draws[i]));
  }
  return RatioJson(value(of.all) / value(against.all), std::move(ratios));
}

Json FiguresToJson(const MeasuredPolicy& policy, const controller::LayerGroups& groups) {
  const auto figure = [&policy](const std::function<double(const Figures&)>& value) {
    return WithInterval(value(policy.figures.all), policy.figures.Of(value));
  };
  const Figures& all = policy.figures.all;
  Json json = {{"policy", policy.name}, {"kind", policy.kind}, {"tokens", all.tokens}};
  json["windows"] = policy.outcome.size();
  json["mean_bits"] = figure([&groups](const Figures& f) { return f.MeanBits(groups); });
  json["weight_bytes_a_token"] = figure([](const Figures& f) { return f.bytes; });
  json["kl_mean"] = figure([](const Figures& f) { return f.mean_kl; });
  json["kl_median"] = figure([](const Figures& f) { return f.median_kl; });
  json["kl_p99"] = figure([](const Figures& f) { return f.p99_kl; });
  json["kl_max"] = all.max_kl;
  json["top1_agreement"] = figure([](const Figures& f) { return f.agreement; });
  json["perplexity"] = figure([](const Figures& f) { return f.perplexity; });
  if (policy.budget > 0) {
    json["max_mean_kl"] = policy.budget;
    json["requests"] = all.requests;
    if (all.requests > 0) {
      json["requests_within"] = figure([](const Figures& f) { return f.within; });
    }
  }
  return json;
}

Json AgainstStatic(const MeasuredPolicy& policy, const std::vector<const MeasuredPolicy*>& plans,
                   const std::string& name) {
  const StaticCurve curve = CurveOf(plans, [](const PolicyFigures& f) -> const Figures& { return f.all; });
  std::vector<double> kl;
  std::vector<double> bytes;
  for (size_t i = 0; i < policy.figures.draws.size(); ++i) {
    const StaticCurve draw = CurveOf(plans, [i](const PolicyFigures& f) -> const Figures& { return f.draws[i]; });
    const Figures& of = policy.figures.draws[i];
    kl.push_back(of.mean_kl / draw.KlAt(of.bytes));
    bytes.push_back(of.bytes / draw.BytesAt(of.mean_kl));
  }
  const Figures& all = policy.figures.all;
  return {{"policy", policy.name},
          {"against", name},
          {"windows", policy.outcome.size()},
          {"against_kl", curve.KlAt(all.bytes)},
          {"kl_ratio", RatioJson(all.mean_kl / curve.KlAt(all.bytes), std::move(kl))},
          {"bytes_ratio", RatioJson(all.bytes / curve.BytesAt(all.mean_kl), std::move(bytes))}};
}

Json AgainstPolicy(const MeasuredPolicy& policy, const MeasuredPolicy& other) {
  return {{"policy", policy.name},
          {"against", other.name},
          {"windows", policy.outcome.size()},
          {"against_kl", other.figures.all.mean_kl},
          {"kl_ratio", PairedRatio([](const Figures& f) { return f.mean_kl; }, policy.figures, other.figures)},
          {"bytes_ratio", PairedRatio([](const Figures& f) { return f.bytes; }, policy.figures, other.figures)}};
}

Json PredictionToJson(const MeasuredPolicy& policy, const Resampler& resampler) {
  const std::vector<Parts> windows = SumTenths(policy.outcome);
  Json json = {{"policy", policy.name}, {"tenths", Json::array()}};
  double predicted = 0;
  for (size_t tenth = 0; tenth < kTenths; ++tenth) {
    const auto sum = [&](const auto& which) {
      Part total;
      for (const uint32_t w : which) {
        total.predicted += windows[w][tenth].predicted;
        total.measured += windows[w][tenth].measured;
        total.tokens += windows[w][tenth].tokens;
      }
      return total;
    };
    std::vector<uint32_t> every(windows.size());
    for (size_t w = 0; w < every.size(); ++w) {
      every[w] = static_cast<uint32_t>(w);
    }
    const Part all = sum(every);
    if (all.tokens == 0) {
      continue;
    }
    std::vector<double> draws;
    for (const std::vector<uint32_t>& draw : resampler.draws()) {
      const Part part = sum(draw);
      draws.push_back(part.measured / static_cast<double>(part.tokens));
    }
    const auto count = static_cast<double>(all.tokens);
    predicted += all.predicted;
    json["tenths"].push_back({{"predicted", all.predicted / count},
                              {"measured", WithInterval(all.measured / count, MiddlePart(std::move(draws)))}});
  }
  json["predicted"] = predicted / static_cast<double>(policy.figures.all.tokens);
  json["measured"] = policy.figures.all.mean_kl;
  return json;
}

Json TraceToJson(const MeasuredPolicy& policy, const controller::LayerGroups& groups) {
  const WindowOutcome& window = policy.outcome.front();
  Json json = {{"policy", policy.name}, {"window", 0}, {"bits", Json::array()}, {"entropy", Json::array()}};
  for (size_t i = 0; i < window.kl.size(); ++i) {
    json["bits"].push_back(groups.MeanBits(window.plans[i]));
    json["entropy"].push_back(window.signals[i].entropy_nats);
  }
  json["kl"] = window.kl;
  return json;
}

}  // namespace flexquant::cli
