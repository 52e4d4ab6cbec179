#ifndef FLEXQUANT_COMMON_CALIBRATION_LEVEL_CHOOSER_H_
#define FLEXQUANT_COMMON_CALIBRATION_LEVEL_CHOOSER_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "common/calibration/precision_requirement.h"

namespace flexquant {

// What the mean over an answer's tokens is to keep to.
struct PrecisionGoal {
  enum class Kind : uint8_t { kMeanKl, kMeanBytes };
  Kind kind = Kind::kMeanKl;
  double target = 0;  // predicted nats, or bytes a token; > 0
};

// Chooses the level of every token of one answer: that which minimises bytes + lambda * predicted KL, from the lowest
// allowed level to the highest. Lambda is the curve's at the goal, corrected for what the answer has saved or overspent
// so far, spread over the next kHorizon tokens. Not thread-safe.
class LevelChooser {
 public:
  static constexpr double kHorizon = 32;
  // A move to another level must lower the cost by more than this part of it, unless told otherwise.
  static constexpr double kHysteresis = 0.005;

  // `requirement` must outlive this; `bytes` [levels] that a token reads at each level. 0 <= first <= last < levels.
  LevelChooser(const PrecisionRequirement& requirement, absl::Span<const double> bytes, int first, int last,
               const PrecisionGoal& goal, double hysteresis = kHysteresis);

  // Of a mean KL that is the goal, `nats` of every token from now on go elsewhere: levels get what is left, but at
  // least a thousandth. Of a goal of bytes nothing.
  void ReserveKl(double nats);
  // What is expected of the next token at each level, in nats. Valid until Charge.
  void SetNext(absl::Span<const double> predicted_kl);
  // Before the first SetNext, and with the top's KL unknown until then, the highest level.
  int Choose() const;
  // The next token runs at `level`, chosen or not.
  void Charge(int level);

  // For choosing one level for several answers: lambda * predicted KL of a level, in bytes. A level above the highest
  // allowed counts as that one: the answer does not ask for it.
  double Penalty(int level) const;
  int first() const { return first_; }
  int last() const { return last_; }
  // Of the token before; -1 = none.
  int current() const { return current_; }
  double predicted_kl(int level) const { return kl_[static_cast<size_t>(level)]; }

  // The move from `current` to the cheapest of costs [first, last] that pays; current < 0 = none.
  static int Cheapest(absl::Span<const double> costs, int first, int last, int current,
                      double hysteresis = kHysteresis);

 private:
  double Lambda() const;

  const PrecisionRequirement& requirement_;
  const std::vector<double> bytes_;
  const int first_;
  const int last_;
  const double whole_target_;
  PrecisionGoal goal_;  // its target: for levels
  const double hysteresis_;
  std::vector<double> kl_;  // of the next token, [levels]
  bool known_ = false;      // whether kl_ comes from signals
  double lambda_ = 0;
  double overspent_ = 0;  // against the goal, of the tokens so far
  int current_ = -1;
};

}  // namespace flexquant

#endif  // FLEXQUANT_COMMON_CALIBRATION_LEVEL_CHOOSER_H_
