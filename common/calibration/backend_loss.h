#ifndef FLEXQUANT_COMMON_CALIBRATION_BACKEND_LOSS_H_
#define FLEXQUANT_COMMON_CALIBRATION_BACKEND_LOSS_H_

#include <optional>

namespace flexquant {

// Settings of a backend that make results coarser, whatever the plan.
struct BackendSettings {
  bool coarse_prompts = false;  // prompts have 8-bit activations at every precision
  int kv_cache_bits = 16;       // of keys and values: 16, or 8
};

// What they cost: mean KL(top || top with the setting) in nats of the next token's distribution; nullopt = not
// measured. To the KL of a plan it is added: below 8 bits what it costs more was within 0.0003 nats
// (docs/performance-cpu.md).
struct BackendLoss {
  std::optional<double> coarse_prompts;  // behind a prompt as long as what follows it
  std::optional<double> kv_cache_8;

  // Of a backend with `settings`; what was not measured counts nothing.
  double Of(const BackendSettings& settings) const {
    return (settings.coarse_prompts ? coarse_prompts.value_or(0) : 0) +
           (settings.kv_cache_bits == 8 ? kv_cache_8.value_or(0) : 0);
  }
  // Whether everything that Of counts was measured.
  bool Knows(const BackendSettings& settings) const {
    return (!settings.coarse_prompts || coarse_prompts.has_value()) &&
           (settings.kv_cache_bits != 8 || kv_cache_8.has_value());
  }

  bool operator==(const BackendLoss&) const = default;
};

}  // namespace flexquant

#endif  // FLEXQUANT_COMMON_CALIBRATION_BACKEND_LOSS_H_
