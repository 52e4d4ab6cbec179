// Prints what choosing precision costs a sequence and step: flexquant_policy_bench MODEL, a calibrated package.

#include <chrono>
#include <cmath>
#include <cstdio>
#include <functional>
#include <memory>
#include <vector>

#include "controller/model_package.h"
#include "controller/policy/policy_factory.h"
#include "controller/policy/shared_level.h"

namespace flexquant::controller {
namespace {

using Policies = std::vector<std::unique_ptr<PrecisionPolicy>>;

constexpr int kSteps = 20'000;

TokenSignals SignalsOf(int step, size_t sequence) {
  const double entropy = 1.5 + 1.5 * std::sin(0.7 * step + static_cast<double>(sequence));
  return {entropy, std::exp(-entropy), 5 * std::exp(-entropy)};
}

// Nanoseconds of a step by sequence; `choose` chooses and charges the plans of all.
double Time(Policies& policies, const std::function<void(Policies&)>& choose) {
  const auto start = std::chrono::steady_clock::now();
  for (int step = 1; step <= kSteps; ++step) {
    for (size_t i = 0; i < policies.size(); ++i) {
      policies[i]->Observe(SignalsOf(step, i));
    }
    choose(policies);
  }
  const std::chrono::duration<double, std::nano> time = std::chrono::steady_clock::now() - start;
  return time.count() / kSteps / static_cast<double>(policies.size());
}

int Run(const char* folder) {
  const auto model = LoadModelPackage(folder);
  if (!model.ok()) {
    std::fprintf(stderr, "%s\n", model.status().ToString().c_str());
    return 1;
  }
  v1::PrecisionPolicy request;
  request.set_max_mean_kl(0.01);
  const PrecisionPlan floor = PrecisionPlan::Uniform(4, model->layer_groups->count());
  std::printf("%9s %16s %16s %22s\n", "sequences", "own plan, ns", "shared plan, ns", "with a static mate, ns");
  for (const size_t sequences : {1, 2, 8, 32}) {
    const auto time = [&](const std::function<void(Policies&)>& choose) {
      Policies policies;
      for (size_t i = 0; i < sequences; ++i) {
        auto resolved = MakePolicy(request, model->policies, 1);
        if (!resolved.ok()) {
          std::fprintf(stderr, "%s\n", resolved.status().ToString().c_str());
          std::exit(1);
        }
        policies.push_back(std::move(resolved->policy));
      }
      return Time(policies, choose);
    };
    const auto shared = [](Policies& policies, const PrecisionPlan& least) {
      std::vector<LevelDemand> demands;
      for (const auto& policy : policies) {
        policy->Next(1);
        demands.push_back(*policy->demand());
      }
      const PrecisionPlan plan = SharedPlan(demands, least);
      for (const auto& policy : policies) {
        policy->Charge(plan);
      }
    };
    const double own = time([](Policies& policies) {
      for (const auto& policy : policies) {
        policy->Charge(policy->Next(1));
      }
    });
    std::printf("%9zu %16.0f %16.0f %22.0f\n", sequences, own, time([&](Policies& p) { shared(p, {}); }),
                time([&](Policies& p) { shared(p, floor); }));
  }
  return 0;
}

}  // namespace
}  // namespace flexquant::controller

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "flexquant_policy_bench MODEL\n");
    return 2;
  }
  return flexquant::controller::Run(argv[1]);
}
