#include "kernels/sampling.h"

#include <algorithm>
#include <cstddef>

#include "common/check.h"
#include "kernels/cpu/exp.h"
#include "kernels/cpu/vec_portable.h"

namespace flexquant {
namespace {

// The portable vector whatever the machine: the token must not depend on the instruction set.
using Vector = portable::F32;

struct Candidate {
  float logit;
  uint32_t id;
  float weight;  // e^((logit - max) / temperature)
};

// More likely first; ties by smaller id.
struct MoreLikely {
  bool operator()(const Candidate& a, const Candidate& b) const {
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
  }
};

// Reused by the thread's later calls, so that a step does not allocate.
struct Scratch {
  std::vector<Candidate> candidates;
  std::vector<Candidate> nucleus;
  std::vector<Candidate> top;
  std::vector<float> originals;  // logits before penalties, in the order of TokenCounts::entries
};

// Above this a heap's work outgrows a selection's.
constexpr size_t kHeapMax = 512;

// The k most likely, most likely first.
void SelectTop(absl::Span<const float> logits, size_t k, std::vector<Candidate>& top) {
  top.clear();
  k = std::min(k, logits.size());
  if (k == 0) {
    return;
  }
  if (k > kHeapMax) {
    for (size_t id = 0; id < logits.size(); ++id) {
      top.push_back({logits[id], static_cast<uint32_t>(id), 0});
    }
    std::nth_element(top.begin(), top.begin() + static_cast<ptrdiff_t>(k - 1), top.end(), MoreLikely());
    top.resize(k);
    std::sort(top.begin(), top.end(), MoreLikely());
    return;
  }
  for (size_t id = 0; id < logits.size(); ++id) {
    // Ids rise, so an equal logit never beats what is in the heap.
    if (top.size() == k && !(logits[id] > top.front().logit)) {
      continue;
    }
    if (top.size() == k) {
      std::pop_heap(top.begin(), top.end(), MoreLikely());
      top.pop_back();
    }
    top.push_back({logits[id], static_cast<uint32_t>(id), 0});
    std::push_heap(top.begin(), top.end(), MoreLikely());
  }
  std::sort_heap(top.begin(), top.end(), MoreLikely());
}

bool HasPenalties(const SamplingConfig& config) {
  return config.repetition_penalty != 1 || config.presence_penalty != 0 || config.frequency_penalty != 0;
}

void ApplyPenalties(absl::Span<float> logits, const SamplingConfig& config, const TokenCounts& counts,
                    std::vector<float>& originals) {
  originals.clear();
  for (const auto& [id, count] : counts.entries()) {
    if (id >= logits.size()) {
      originals.push_back(0);
      continue;
    }
    float& logit = logits[id];
    originals.push_back(logit);
    logit = logit > 0 ? logit / config.repetition_penalty : logit * config.repetition_penalty;
    if (count > 0) {
      logit -= config.presence_penalty + config.frequency_penalty * static_cast<float>(count);
    }
  }
}

float OriginalLogit(absl::Span<const float> logits, const TokenCounts& counts, const std::vector<float>& originals,
                    uint32_t id) {
  for (size_t i = 0; i < originals.size(); ++i) {
    if (counts.entries()[i].first == id) {
      return originals[i];
    }
  }
  return logits[id];
}

// Smallest index of the largest logit.
uint32_t Argmax(absl::Span<const float> logits) {
  size_t best = 0;
  for (size_t i = 1; i < logits.size(); ++i) {
    if (logits[i] > logits[best]) {
      best = i;
    }
  }
  return static_cast<uint32_t>(best);
}

void ComputeWeights(float max_logit, float temperature, std::vector<Candidate>& candidates) {
  const Vector max = Vector::Set(max_logit);
  const Vector divisor = Vector::Set(temperature);
  const size_t lanes = static_cast<size_t>(Vector::kLanes);
  float buffer[Vector::kLanes];
  for (size_t i = 0; i < candidates.size(); i += lanes) {
    const size_t count = std::min(lanes, candidates.size() - i);
    for (size_t lane = 0; lane < lanes; ++lane) {
      buffer[lane] = lane < count ? candidates[i + lane].logit : max_logit;
    }
    Exp((Vector::Load(buffer) - max) / divisor).Store(buffer);
    for (size_t lane = 0; lane < count; ++lane) {
      candidates[i + lane].weight = buffer[lane];
    }
  }
}

double TotalWeight(const std::vector<Candidate>& candidates) {
  double total = 0;
  for (const Candidate& candidate : candidates) {
    total += static_cast<double>(candidate.weight);
  }
  return total;
}

// Keeps the smallest set of most likely candidates that holds `top_p` of the weight, at least one.
void KeepNucleus(double top_p, std::vector<Candidate>& candidates, std::vector<Candidate>& nucleus) {
  const double total = TotalWeight(candidates);
  // Everything below holds less than 1 - top_p together, so none of it can be needed.
  const double floor = (1.0 - top_p) * total / static_cast<double>(candidates.size());
  nucleus.clear();
  for (const Candidate& candidate : candidates) {
    if (static_cast<double>(candidate.weight) >= floor) {
      nucleus.push_back(candidate);
    }
  }
  if (nucleus.empty()) {
    return;
  }
  double need = top_p * total;
  auto begin = nucleus.begin();
  auto end = nucleus.end();
  while (end - begin > 32) {
    const auto middle = begin + (end - begin) / 2;
    std::nth_element(begin, middle, end, MoreLikely());
    double mass = 0;
    for (auto it = begin; it != middle; ++it) {
      mass += static_cast<double>(it->weight);
    }
    if (mass >= need) {
      end = middle;
    } else {
      need -= mass;
      begin = middle;
    }
  }
  std::sort(begin, end, MoreLikely());
  auto last = begin;
  while (last + 1 != end && static_cast<double>(last->weight) < need) {
    need -= static_cast<double>(last->weight);
    ++last;
  }
  const Candidate least = *last;
  candidates.erase(std::remove_if(candidates.begin(), candidates.end(),
                                  [&least](const Candidate& c) { return MoreLikely()(least, c); }),
                   candidates.end());
}

// Candidates left after top-k, in order of id.
void GatherCandidates(absl::Span<const float> logits, uint32_t top_k, Scratch& scratch) {
  scratch.candidates.clear();
  if (top_k > 0 && top_k < logits.size()) {
    SelectTop(logits, top_k, scratch.candidates);
    std::sort(scratch.candidates.begin(), scratch.candidates.end(),
              [](const Candidate& a, const Candidate& b) { return a.id < b.id; });
    return;
  }
  for (size_t id = 0; id < logits.size(); ++id) {
    scratch.candidates.push_back({logits[id], static_cast<uint32_t>(id), 0});
  }
}

uint32_t Draw(absl::Span<const float> logits, const SamplingConfig& config, uint64_t draw, Scratch& scratch) {
  GatherCandidates(logits, config.top_k, scratch);
  auto& candidates = scratch.candidates;
  ComputeWeights(logits[Argmax(logits)], config.temperature, candidates);
  if (config.top_p < 1) {
    KeepNucleus(static_cast<double>(config.top_p), candidates, scratch.nucleus);
  }
  if (config.min_p > 0) {
    // The most likely candidate weighs 1.
    candidates.erase(std::remove_if(candidates.begin(), candidates.end(),
                                    [&config](const Candidate& c) { return c.weight < config.min_p; }),
                     candidates.end());
  }
  const double target = PhiloxUniform(config.seed, draw) * TotalWeight(candidates);
  double sum = 0;
  uint32_t id = 0;
  for (const Candidate& candidate : candidates) {
    if (candidate.weight > 0) {
      id = candidate.id;
      sum += static_cast<double>(candidate.weight);
      if (sum > target) {
        break;
      }
    }
  }
  return id;
}

}  // namespace

uint32_t TokenCounts::Slot(uint32_t id) {
  if (id >= slot_of_id_.size()) {
    slot_of_id_.resize(static_cast<size_t>(id) + 1, 0);
  }
  if (slot_of_id_[id] == 0) {
    entries_.emplace_back(id, 0U);
    slot_of_id_[id] = static_cast<uint32_t>(entries_.size());
  }
  return slot_of_id_[id] - 1;
}

void TokenCounts::AddPrompt(uint32_t id) { Slot(id); }

void TokenCounts::AddAnswer(uint32_t id) { ++entries_[Slot(id)].second; }

SampledToken SampleToken(const CpuKernels& kernels, absl::Span<float> logits, const SamplingConfig& config,
                         const TokenCounts& counts, uint64_t draw, uint32_t top_logprobs) {
  FQ_CHECK(!logits.empty());
  static thread_local Scratch scratch;
  SampledToken result;
  result.stats = kernels.logit_stats(logits.data(), static_cast<int64_t>(logits.size()));
  if (top_logprobs > 0) {
    SelectTop(logits, top_logprobs, scratch.top);
    for (const Candidate& candidate : scratch.top) {
      result.top.emplace_back(candidate.id, candidate.logit - result.stats.log_sum_exp);
    }
  }
  scratch.originals.clear();
  const bool penalised = HasPenalties(config);
  if (penalised) {
    ApplyPenalties(logits, config, counts, scratch.originals);
  }
  if (config.temperature > 0) {
    result.id = Draw(logits, config, draw, scratch);
  } else {
    result.id = penalised ? Argmax(logits) : result.stats.argmax;
  }
  result.logprob = OriginalLogit(logits, counts, scratch.originals, result.id) - result.stats.log_sum_exp;
  return result;
}

}  // namespace flexquant
