#include "client/cli/request_flags.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/precision.h"
#include "common/status_macros.h"

namespace flexquant::cli {
namespace {

constexpr char kPlanPrefix[] = "plan:";

// Width in bits, or 0 if `text` is none.
int ParseWidth(const std::string& text) {
  int bits = 0;
  return absl::SimpleAtoi(text, &bits) && (IsQuantizedPrecision(bits) || bits == kReferencePrecision) ? bits : 0;
}

template <typename T, typename Setter>
void SetIf(const std::optional<T>& value, Setter setter) {
  if (value.has_value()) {
    setter(*value);
  }
}

absl::Status FillPrecision(const RequestFlags& flags, v1::PrecisionPolicy& policy) {
  const bool of_dynamic = flags.entropy_high || flags.hysteresis || flags.pple_weight;
  if (flags.max_mean_kl.has_value()) {
    policy.set_max_mean_kl(*flags.max_mean_kl);
  } else if (flags.target_bits.has_value()) {
    policy.set_target_mean_bits(*flags.target_bits);
  } else if (flags.precision.empty() && !of_dynamic) {
    // Left to the server.
  } else if (const int bits = ParseWidth(flags.precision); bits != 0) {
    policy.set_fixed_bits(static_cast<uint32_t>(bits));
  } else if (flags.precision == "random") {
    policy.mutable_random();
  } else if (flags.precision == "position") {
    SetIf(flags.tokens_per_level, [&](uint32_t n) { policy.mutable_position()->set_tokens_per_level(n); });
    policy.mutable_position();
  } else if (flags.precision == "dynamic" || flags.precision.empty()) {
    auto* dynamic = policy.mutable_dynamic();
    SetIf(flags.entropy_high, [&](double nats) { dynamic->set_entropy_high_nats(nats); });
    SetIf(flags.hysteresis, [&](double levels) { dynamic->set_hysteresis_levels(levels); });
    SetIf(flags.pple_weight, [&](double weight) { dynamic->set_pple_weight(weight); });
  } else {
    policy.set_named_plan(flags.precision.substr(sizeof kPlanPrefix - 1));
  }
  const std::string chosen = flags.max_mean_kl         ? "--max-mean-kl"
                             : flags.target_bits       ? "--target-bits"
                             : flags.precision.empty() ? "no --precision"
                                                       : flags.precision;
  if (!policy.has_dynamic() && of_dynamic) {
    return absl::InvalidArgumentError(
        absl::StrCat("--entropy-high, --hysteresis and --pple-weight go with --precision dynamic, not with ", chosen,
                     "; leave them out"));
  }
  if (!policy.has_position() && flags.tokens_per_level) {
    return absl::InvalidArgumentError(
        absl::StrCat("--tokens-per-level goes with --precision position, not with ", chosen));
  }
  SetIf(flags.min_bits, [&](uint32_t bits) { policy.set_min_bits(bits); });
  SetIf(flags.max_bits, [&](uint32_t bits) { policy.set_max_bits(bits); });
  return absl::OkStatus();
}

void FillSampling(const RequestFlags& flags, v1::SamplingParams& sampling) {
  SetIf(flags.temperature, [&](double v) { sampling.set_temperature(v); });
  SetIf(flags.top_k, [&](uint32_t v) { sampling.set_top_k(v); });
  SetIf(flags.top_p, [&](double v) { sampling.set_top_p(v); });
  SetIf(flags.min_p, [&](double v) { sampling.set_min_p(v); });
  SetIf(flags.repetition_penalty, [&](double v) { sampling.set_repetition_penalty(v); });
  SetIf(flags.presence_penalty, [&](double v) { sampling.set_presence_penalty(v); });
  SetIf(flags.frequency_penalty, [&](double v) { sampling.set_frequency_penalty(v); });
  SetIf(flags.seed, [&](uint64_t v) { sampling.set_seed(v); });
}

}  // namespace

const char kPrecisionWords[] = "3, 4, 5, 6, 8, 16 (needs the kept reference), dynamic, random, position or plan:NAME";

std::string CheckPrecision(const std::string& text) {
  if (text == "dynamic" || text == "random" || text == "position" || ParseWidth(text) != 0) {
    return "";
  }
  absl::string_view name = text;
  if (absl::ConsumePrefix(&name, kPlanPrefix)) {
    return name.empty() ? "plan: needs a name; `flexquant info` lists them" : "";
  }
  return absl::StrCat("'", text, "' is not ", kPrecisionWords);
}

void AddPolicyParameters(CLI::App& app, const std::string& group, RequestFlags& flags) {
  const auto add = [&](const char* name, auto& value, const char* help) {
    app.add_option(name, value, help)->group(group);
  };
  add("--min-bits", flags.min_bits, "Fewest bits of a policy that moves");
  add("--max-bits", flags.max_bits, "Most bits of a policy that moves");
  add("--entropy-high", flags.entropy_high, "dynamic: entropy in nats that asks for the top level [2]");
  add("--hysteresis", flags.hysteresis, "dynamic: levels that the wanted one must differ by to move [0.5]");
  add("--pple-weight", flags.pple_weight, "dynamic: weight of the newest token in the mean entropy [0.3]");
  add("--tokens-per-level", flags.tokens_per_level, "position: tokens before the next lower level [16]");
}

void AddRequestFlags(CLI::App& app, RequestFlags& flags) {
  auto* precision = app.add_option("--precision", flags.precision,
                                   absl::StrCat("Weight bits: ", kPrecisionWords,
                                                " [--max-mean-kl 0.01 if the model is calibrated, or else dynamic]"))
                        ->check(CheckPrecision)
                        ->group("Precision");
  auto* kl = app.add_option("--max-mean-kl", flags.max_mean_kl,
                            "Fewest bits that keep the mean KL to 8 bits within so many nats (calibrated models)")
                 ->excludes(precision)
                 ->group("Precision");
  app.add_option("--target-bits", flags.target_bits, "Mean bits a weight to come to, best spent (calibrated models)")
      ->excludes(precision)
      ->excludes(kl)
      ->group("Precision");
  AddPolicyParameters(app, "Precision", flags);
  app.add_option("--batch-mode", flags.batch_mode,
                 "shared: may run at more bits that a batch-mate asked for; isolated: exactly at its own")
      ->check(CLI::IsMember({"shared", "isolated"}))
      ->group("Precision")
      ->capture_default_str();

  const auto sampling = [&](const char* name, auto& value, const char* help) {
    app.add_option(name, value, help)->group("Sampling");
  };
  sampling("--temperature", flags.temperature, "0 = most likely token [0]");
  sampling("--top-k", flags.top_k, "Keep the k most likely tokens; 0 = all [0]");
  sampling("--top-p", flags.top_p, "Nucleus mass, in (0, 1] [1]");
  sampling("--min-p", flags.min_p, "Drop tokens less likely than this times the most likely, in [0, 1] [0]");
  sampling("--repetition-penalty", flags.repetition_penalty, "Divides seen tokens' logits, in (0, 10] [1]");
  sampling("--presence-penalty", flags.presence_penalty, "Taken once from answered tokens' logits, in [-10, 10] [0]");
  sampling("--frequency-penalty", flags.frequency_penalty, "Taken for each occurrence, in [-10, 10] [0]");
  sampling("--seed", flags.seed, "Seed of the draws; default: chosen and reported");
  sampling("--max-tokens", flags.max_tokens, "Most tokens to generate [256]");
  app.add_option("--stop", flags.stop, "Text that ends the answer; repeat for several")
      ->group("Sampling")
      ->allow_extra_args(false);
  app.add_flag("--ignore-eos", flags.ignore_eos, "Go on past end-of-sequence")->group("Sampling");
}

absl::Status FillRequest(const RequestFlags& flags, v1::GenerateRequest& request) {
  FillSampling(flags, *request.mutable_sampling());
  SetIf(flags.max_tokens, [&](uint32_t v) { request.mutable_stop()->set_max_tokens(v); });
  request.mutable_stop()->set_ignore_eos(flags.ignore_eos);
  for (const std::string& stop : flags.stop) {
    request.mutable_stop()->add_stop_strings(stop);
  }
  request.set_batch_mode(flags.batch_mode == "isolated" ? v1::BATCH_MODE_ISOLATED : v1::BATCH_MODE_SHARED);
  return FillPrecision(flags, *request.mutable_precision());
}

}  // namespace flexquant::cli
