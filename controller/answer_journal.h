#ifndef FLEXQUANT_CONTROLLER_ANSWER_JOURNAL_H_
#define FLEXQUANT_CONTROLLER_ANSWER_JOURNAL_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "common/precision.h"

namespace flexquant::controller {

// What an answer has said and at which plans, so that another executor can go on where the last one stopped. Token i's
// plan is known before the token: plans run ahead by the steps in flight, and a plan that was chosen once is kept,
// because choosing it anew would need signals as they were. Not thread-safe.
class AnswerJournal {
 public:
  // Tokens accepted.
  uint32_t size() const { return static_cast<uint32_t>(tokens_.size()); }
  // Plans chosen; at least size().
  uint32_t planned() const { return static_cast<uint32_t>(entries_.size()); }
  uint32_t token(uint32_t index) const { return tokens_[index]; }
  const PrecisionPlan& plan(uint32_t index) const { return distinct_[entries_[index].plan]; }
  // In nats, if the policy predicts any.
  std::optional<double> predicted_kl(uint32_t index) const { return entries_[index].predicted_kl; }

  // The plan of answer token planned().
  void AddPlan(const PrecisionPlan& plan, std::optional<double> predicted_kl);
  // Answer token `index`, whose plan is known, ran at `plan` in the end.
  void ReplacePlan(uint32_t index, const PrecisionPlan& plan) { entries_[index].plan = Intern(plan); }
  // Answer token size(); its plan must be known.
  void AddToken(uint32_t id);

 private:
  struct Entry {
    uint32_t plan;
    std::optional<double> predicted_kl;
  };

  // Index of an equal plan in distinct_: an answer has few, and a plan is as long as the model has layer groups.
  uint32_t Intern(const PrecisionPlan& plan);

  std::vector<uint32_t> tokens_;
  std::vector<Entry> entries_;
  std::vector<PrecisionPlan> distinct_;
};

}  // namespace flexquant::controller

#endif  // FLEXQUANT_CONTROLLER_ANSWER_JOURNAL_H_
