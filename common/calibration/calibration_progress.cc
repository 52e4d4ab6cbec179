#include "common/calibration/calibration_progress.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/json_fields.h"
#include "common/status_macros.h"

namespace flexquant {
namespace {

using Json = nlohmann::ordered_json;

constexpr char kRemedy[] = "calibrate with --restart";

absl::StatusOr<CalibrationProgress::GroupSums> ReadSums(const JsonFields& fields) {
  FQ_ASSIGN_OR_RETURN(const std::vector<double> flat, fields.Numbers("kl", kLowerPrecisions.size() * kEntropyBuckets));
  CalibrationProgress::GroupSums sums;
  for (size_t w = 0; w < sums.size(); ++w) {
    std::copy_n(flat.begin() + static_cast<ptrdiff_t>(w * kEntropyBuckets), kEntropyBuckets, sums[w].begin());
  }
  return sums;
}

absl::StatusOr<CalibrationProgress::RungSamples> ReadSamples(const JsonFields& fields) {
  CalibrationProgress::RungSamples samples;
  FQ_ASSIGN_OR_RETURN(const uint64_t positions, fields.Count("positions"));
  FQ_ASSIGN_OR_RETURN(samples.kl, fields.Numbers("kl", positions));
  FQ_ASSIGN_OR_RETURN(samples.agreements, fields.Count("agreements"));
  FQ_ASSIGN_OR_RETURN(samples.nll_nats, fields.Number("nll_nats", std::numeric_limits<double>::max()));
  return samples;
}

Json SignalsJson(const std::vector<TokenSignals>& window) {
  Json entropies = Json::array();
  Json probabilities = Json::array();
  Json margins = Json::array();
  for (const TokenSignals& signals : window) {
    entropies.push_back(signals.entropy_nats);
    probabilities.push_back(signals.top1_probability);
    margins.push_back(signals.margin);
  }
  return {{"positions", window.size()},
          {"entropy_nats", entropies},
          {"top1_probability", probabilities},
          {"margin", margins}};
}

absl::StatusOr<std::vector<TokenSignals>> ReadSignals(const JsonFields& fields) {
  FQ_ASSIGN_OR_RETURN(const uint64_t positions, fields.Count("positions"));
  FQ_ASSIGN_OR_RETURN(const std::vector<double> entropies, fields.Numbers("entropy_nats", positions));
  FQ_ASSIGN_OR_RETURN(const std::vector<double> probabilities, fields.Numbers("top1_probability", positions));
  FQ_ASSIGN_OR_RETURN(const std::vector<double> margins, fields.Numbers("margin", positions));
  std::vector<TokenSignals> window(positions);
  for (size_t i = 0; i < window.size(); ++i) {
    window[i] = {entropies[i], probabilities[i], margins[i]};
  }
  return window;
}

absl::StatusOr<CalibrationProgress::LossSum> ReadLoss(const JsonFields& fields, const std::string& name) {
  FQ_ASSIGN_OR_RETURN(const JsonFields of, fields.Object(name));
  CalibrationProgress::LossSum sum;
  FQ_ASSIGN_OR_RETURN(sum.kl, of.Number("kl", std::numeric_limits<double>::max()));
  FQ_ASSIGN_OR_RETURN(sum.positions, of.Count("positions"));
  return sum;
}

}  // namespace

void CalibrationProgress::RungSamples::Summarise(Rung* rung) const {
  std::vector<double> sorted = kl;
  std::sort(sorted.begin(), sorted.end());
  const auto positions = static_cast<double>(sorted.size());
  // The smallest value that so large a part of all does not exceed.
  const auto quantile = [&](double part) { return sorted[static_cast<size_t>(std::ceil(part * positions)) - 1]; };
  rung->mean_kl = std::accumulate(kl.begin(), kl.end(), 0.0) / positions;
  rung->median_kl = quantile(0.5);
  rung->p99_kl = quantile(0.99);
  rung->top1_agreement = static_cast<double>(agreements) / positions;
  rung->perplexity = std::exp(nll_nats / positions);
}

uint64_t CalibrationProgress::Positions() const {
  return std::accumulate(bucket_positions.begin(), bucket_positions.end(), uint64_t{0});
}

std::vector<GroupSensitivity> CalibrationProgress::Sensitivities() const {
  const auto positions = static_cast<double>(Positions());
  std::vector<GroupSensitivity> sensitivities(sums.size());
  for (size_t group = 0; group < sums.size(); ++group) {
    for (size_t w = 0; w < kLowerPrecisions.size(); ++w) {
      const auto& buckets = sums[group][w];
      Sensitivity& sensitivity = sensitivities[group][w];
      sensitivity.mean_kl = std::accumulate(buckets.begin(), buckets.end(), 0.0) / positions;
      for (size_t bucket = 0; bucket < kEntropyBuckets; ++bucket) {
        const auto count = static_cast<double>(bucket_positions[bucket]);
        sensitivity.bucket_kl[bucket] = count > 0 ? buckets[bucket] / count : 0;
      }
    }
  }
  return sensitivities;
}

std::string CalibrationProgress::ToJson() const {
  Json json;
  json["key"] = key;
  json["units_done"] = units_done;
  json["bucket_positions"] = bucket_positions;
  json["groups"] = Json::array();
  for (const GroupSums& group : sums) {
    Json flat = Json::array();
    for (const auto& buckets : group) {
      for (const double sum : buckets) {
        flat.push_back(sum);
      }
    }
    json["groups"].push_back({{"kl", flat}});
  }
  json["rungs"] = Json::array();
  for (const RungSamples& rung : rungs) {
    json["rungs"].push_back(
        {{"positions", rung.kl.size()}, {"kl", rung.kl}, {"agreements", rung.agreements}, {"nll_nats", rung.nll_nats}});
  }
  json["holdout_signals"] = Json::array();
  for (const std::vector<TokenSignals>& window : holdout_signals) {
    json["holdout_signals"].push_back(SignalsJson(window));
  }
  for (const auto& [name, sum] : {std::pair("kv_cache_8", &kv_cache_8), std::pair("coarse_prompts", &coarse_prompts)}) {
    json[name] = {{"kl", sum->kl}, {"positions", sum->positions}};
  }
  return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

absl::StatusOr<CalibrationProgress> CalibrationProgress::FromJson(const std::string& text, const std::string& path) {
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(path, " is not a JSON object; ", kRemedy));
  }
  const JsonFields fields(json, path, "", kRemedy);
  CalibrationProgress progress;
  FQ_ASSIGN_OR_RETURN(progress.key, fields.String("key"));
  FQ_ASSIGN_OR_RETURN(progress.units_done, fields.Count("units_done"));
  FQ_ASSIGN_OR_RETURN(const std::vector<uint64_t> buckets, fields.Counts("bucket_positions", kEntropyBuckets));
  std::copy(buckets.begin(), buckets.end(), progress.bucket_positions.begin());
  FQ_ASSIGN_OR_RETURN(const std::vector<JsonFields> groups, fields.Objects("groups"));
  for (const JsonFields& group : groups) {
    FQ_ASSIGN_OR_RETURN(const GroupSums sums, ReadSums(group));
    progress.sums.push_back(sums);
  }
  FQ_ASSIGN_OR_RETURN(const std::vector<JsonFields> rungs, fields.Objects("rungs"));
  for (const JsonFields& rung : rungs) {
    FQ_ASSIGN_OR_RETURN(RungSamples samples, ReadSamples(rung));
    progress.rungs.push_back(std::move(samples));
  }
  FQ_ASSIGN_OR_RETURN(const std::vector<JsonFields> windows, fields.Objects("holdout_signals"));
  for (const JsonFields& window : windows) {
    FQ_ASSIGN_OR_RETURN(std::vector<TokenSignals> signals, ReadSignals(window));
    progress.holdout_signals.push_back(std::move(signals));
  }
  FQ_ASSIGN_OR_RETURN(progress.kv_cache_8, ReadLoss(fields, "kv_cache_8"));
  FQ_ASSIGN_OR_RETURN(progress.coarse_prompts, ReadLoss(fields, "coarse_prompts"));
  return progress;
}

}  // namespace flexquant
