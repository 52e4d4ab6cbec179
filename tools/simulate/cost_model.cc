#include "tools/simulate/cost_model.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

namespace flexquant::simulate {
namespace {

using Json = nlohmann::ordered_json;
constexpr size_t kTerms = 4;
using Terms = std::array<double, kTerms>;
constexpr std::array<const char*, kTerms> kNames = {"fixed_ms", "sequence_ms", "sequence_bit_ms", "prompt_token_ms"};
constexpr size_t kLeastSteps = 8;
constexpr int kSweeps = 20'000;
constexpr double kMostMs = 1e6;

Terms TermsOf(const StepShape& shape) { return {1, shape.sequences, shape.sequence_bits, shape.prompt_tokens}; }

CostModel FromTerms(const Terms& terms) { return {terms[0], terms[1], terms[2], terms[3]}; }

Terms ToTerms(const CostModel& model) {
  return {model.fixed_ms, model.sequence_ms, model.sequence_bit_ms, model.prompt_token_ms};
}

double Ms(const CostModel& model, const StepShape& shape) {
  const Terms factors = ToTerms(model);
  const Terms terms = TermsOf(shape);
  double ms = 0;
  for (size_t i = 0; i < kTerms; ++i) {
    ms += factors[i] * terms[i];
  }
  return ms;
}

}  // namespace

StepShape ShapeOf(const std::vector<controller::SequenceStep>& step, const controller::LayerGroups& groups) {
  StepShape shape;
  for (const controller::SequenceStep& part : step) {
    if (part.token_ids.empty()) {
      shape.sequences += 1;
      shape.sequence_bits += groups.MeanBits(part.plan);
    } else {
      shape.prompt_tokens += static_cast<double>(part.token_ids.size());
    }
  }
  return shape;
}

absl::Duration CostModel::Time(const StepShape& shape) const { return absl::Milliseconds(Ms(*this, shape)); }

absl::StatusOr<CostModel> ReadCostModel(const std::string& path) {
  std::ifstream file(path);
  if (!file) {
    return absl::NotFoundError(absl::StrCat("cannot read the cost model ", path));
  }
  const Json json = Json::parse(file, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(path, " is no JSON object; flexquant_simulate --measure makes one"));
  }
  Terms terms = {};
  for (const auto& [name, value] : json.items()) {
    const auto place = std::find(kNames.begin(), kNames.end(), name);
    if (place == kNames.end()) {
      continue;  // says where it is from
    }
    if (!value.is_number() || !(value.get<double>() >= 0 && value.get<double>() <= kMostMs)) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": ", name, " is ", value.dump(), ", not a number from 0 to ", kMostMs));
    }
    terms[static_cast<size_t>(place - kNames.begin())] = value.get<double>();
  }
  if (Ms(FromTerms(terms), {1, 8, 1}) <= 0) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": steps take no time; give at least fixed_ms"));
  }
  return FromTerms(terms);
}

std::string ToJson(const CostModel& model) {
  Json json;
  const Terms terms = ToTerms(model);
  for (size_t i = 0; i < kTerms; ++i) {
    json[kNames[i]] = terms[i];
  }
  return json.dump();
}

absl::StatusOr<CostModel> FitCostModel(const std::vector<MeasuredStep>& steps) {
  // Normal equations of the relative errors, in units in which all terms are alike.
  Terms scale = {};
  size_t count = 0;
  for (const MeasuredStep& step : steps) {
    const Terms terms = TermsOf(step.shape);
    for (size_t i = 0; i < kTerms; ++i) {
      scale[i] = std::max(scale[i], terms[i]);
    }
    count += step.time > absl::ZeroDuration() ? 1 : 0;
  }
  if (count < kLeastSteps) {
    return absl::InvalidArgumentError(
        absl::StrCat(count, " steps took time; a cost model needs at least ", kLeastSteps));
  }
  std::array<Terms, kTerms> products = {};
  Terms right = {};
  for (const MeasuredStep& step : steps) {
    const double ms = absl::ToDoubleMilliseconds(step.time);
    if (ms <= 0) {
      continue;
    }
    Terms terms = TermsOf(step.shape);
    for (size_t i = 0; i < kTerms; ++i) {
      terms[i] = scale[i] > 0 ? terms[i] / scale[i] / ms : 0;
    }
    for (size_t i = 0; i < kTerms; ++i) {
      right[i] += terms[i];
      for (size_t j = 0; j < kTerms; ++j) {
        products[i][j] += terms[i] * terms[j];
      }
    }
  }
  // One after the other is set to its best value that is not negative: converges, as the problem is convex.
  Terms found = {};
  for (int sweep = 0; sweep < kSweeps; ++sweep) {
    for (size_t i = 0; i < kTerms; ++i) {
      double rest = right[i];
      for (size_t j = 0; j < kTerms; ++j) {
        rest -= j == i ? 0 : products[i][j] * found[j];
      }
      found[i] = products[i][i] > 0 ? std::max(rest / products[i][i], 0.0) : 0;
    }
  }
  for (size_t i = 0; i < kTerms; ++i) {
    found[i] = scale[i] > 0 ? found[i] / scale[i] : 0;
  }
  return FromTerms(found);
}

double MedianError(const CostModel& model, const std::vector<MeasuredStep>& steps) {
  std::vector<double> errors;
  for (const MeasuredStep& step : steps) {
    if (step.time > absl::ZeroDuration()) {
      errors.push_back(std::abs(Ms(model, step.shape) / absl::ToDoubleMilliseconds(step.time) - 1));
    }
  }
  if (errors.empty()) {
    return 0;
  }
  const auto middle = errors.begin() + static_cast<int64_t>(errors.size() / 2);
  std::nth_element(errors.begin(), middle, errors.end());
  return *middle;
}

}  // namespace flexquant::simulate
