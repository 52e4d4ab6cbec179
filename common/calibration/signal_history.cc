#include "common/calibration/signal_history.h"

#include <algorithm>
#include <cmath>

namespace flexquant {
namespace {

constexpr double kMostUncertainNats = 20;  // more than any vocabulary's entropy
constexpr double kMaxMargin = 10;          // beyond, nothing changes
constexpr double kSmallestNats = 0.05;     // so that the logarithm does not tell one certain token from another

double LogNats(double nats) { return std::log(nats + kSmallestNats); }

}  // namespace

void SignalHistory::Observe(const TokenSignals& signals) {
  const bool first = empty();
  TokenSignals sane = signals;
  if (!std::isfinite(signals.entropy_nats) || !std::isfinite(signals.top1_probability) ||
      !std::isfinite(signals.margin)) {
    sane = {kMostUncertainNats, 0, 0};
  }
  sane.entropy_nats = std::max(sane.entropy_nats, 0.0);
  sane.margin = std::clamp(sane.margin, 0.0, kMaxMargin);
  entropy_before_ = first ? sane.entropy_nats : newest_.entropy_nats;
  pple_nats_ = first ? sane.entropy_nats : kPpleWeight * sane.entropy_nats + (1 - kPpleWeight) * pple_nats_;
  newest_ = sane;
}

RequirementFeatures SignalHistory::Features() const {
  return {LogNats(newest_.entropy_nats), newest_.margin, newest_.top1_probability, LogNats(pple_nats_),
          LogNats(entropy_before_)};
}

}  // namespace flexquant
