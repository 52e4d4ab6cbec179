#include "controller/answer_journal.h"

#include "common/check.h"

namespace flexquant::controller {

uint32_t AnswerJournal::Intern(const PrecisionPlan& plan) {
  // Most likely the plan of the token before.
  for (size_t i = distinct_.size(); i > 0; --i) {
    if (distinct_[i - 1] == plan) {
      return static_cast<uint32_t>(i - 1);
    }
  }
  distinct_.push_back(plan);
  return static_cast<uint32_t>(distinct_.size() - 1);
}

void AnswerJournal::AddPlan(const PrecisionPlan& plan, std::optional<double> predicted_kl) {
  entries_.push_back({Intern(plan), predicted_kl});
}

void AnswerJournal::AddToken(uint32_t id) {
  FQ_CHECK(size() < planned());
  tokens_.push_back(id);
}

}  // namespace flexquant::controller
