#include "tools/simulate/simulation_report.h"

#include <algorithm>
#include <cmath>

namespace flexquant::simulate {
namespace {

using Json = nlohmann::ordered_json;

double Ratio(double a, double b) { return b > 0 ? a / b : 0; }

Json UtilisationOf(const std::vector<ExecutorOutcome>& executors) {
  double sum = 0;
  double squares = 0;
  double least = executors.front().utilisation;
  double most = least;
  for (const ExecutorOutcome& executor : executors) {
    sum += executor.utilisation;
    squares += executor.utilisation * executor.utilisation;
    least = std::min(least, executor.utilisation);
    most = std::max(most, executor.utilisation);
  }
  const auto count = static_cast<double>(executors.size());
  const double mean = sum / count;
  const double deviation = std::sqrt(std::max(squares / count - mean * mean, 0.0));
  return {{"mean", mean},
          {"min", least},
          {"max", most},
          {"max_to_mean", Ratio(most, mean)},
          {"deviation_to_mean", Ratio(deviation, mean)}};
}

Json ControllerOf(const SimulationResult& result) {
  const double requests = static_cast<double>(result.ttft_ms.size()) + 1e-9;
  const double step_seconds = Ratio(result.rounds_cpu_seconds, static_cast<double>(result.steps));
  const double cpu = result.rounds_cpu_seconds + result.submit_cpu_seconds;
  const double steps_per_second = Ratio(static_cast<double>(result.steps), result.seconds);
  const double share = Ratio(cpu, result.seconds);
  Json json;
  json["us_a_step"] = 1e6 * step_seconds;
  json["us_a_request"] = 1e6 * result.submit_cpu_seconds / requests;
  json["cores"] = share;
  json["steps_per_second"] = steps_per_second;
  // With as many requests a step as here.
  json["steps_per_second_of_a_core"] = Ratio(steps_per_second, share);
  json["executors_of_a_core"] = Ratio(static_cast<double>(result.executors.size()), share);
  return json;
}

}  // namespace

Json PercentilesOf(std::vector<float> values) {
  std::erase_if(values, [](float value) { return value < 0; });
  std::sort(values.begin(), values.end());
  const auto at = [&](double share) {
    const auto rank = static_cast<size_t>(std::ceil(share * static_cast<double>(values.size())));
    return values.empty() ? 0.0 : static_cast<double>(values[std::max<size_t>(rank, 1) - 1]);
  };
  return {{"p50", at(0.5)}, {"p90", at(0.9)}, {"p99", at(0.99)}, {"max", at(1)}};
}

Json ReportOf(const SimulationResult& result, const GoodAnswer& good, bool each_executor) {
  size_t kept = 0;
  for (size_t i = 0; i < result.ttft_ms.size(); ++i) {
    kept += (good.max_ttft_ms <= 0 || result.ttft_ms[i] <= good.max_ttft_ms) &&
                    (good.max_tpot_ms <= 0 || result.tpot_ms[i] <= good.max_tpot_ms)
                ? 1
                : 0;
  }
  Json json;
  json["answers"] = result.ttft_ms.size();
  json["failures"] = result.failures;
  json["arrival_seconds"] = result.arrival_seconds;
  json["seconds"] = result.seconds;
  json["tokens_per_second"] = Ratio(static_cast<double>(result.tokens), result.seconds);
  json["answers_per_second"] = Ratio(static_cast<double>(result.ttft_ms.size()), result.seconds);
  json["good_answers_per_second"] = Ratio(static_cast<double>(kept), result.seconds);
  json["time_to_first_token_ms"] = PercentilesOf(result.ttft_ms);
  json["time_per_output_token_ms"] = PercentilesOf(result.tpot_ms);
  json["cached_prompt_share"] =
      Ratio(static_cast<double>(result.cached_tokens), static_cast<double>(result.prompt_tokens));
  json["preemptions"] = result.preemptions;
  json["utilisation"] = UtilisationOf(result.executors);
  json["controller"] = ControllerOf(result);
  for (const ExecutorOutcome& executor : result.executors) {
    if (each_executor) {
      json["executors"].push_back(
          {{"utilisation", executor.utilisation}, {"answers", executor.answers}, {"steps", executor.steps}});
    }
  }
  return json;
}

}  // namespace flexquant::simulate
