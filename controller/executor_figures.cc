#include "controller/executor_figures.h"

#include <cstddef>

namespace flexquant::controller {

void ExecutorFigures::AddCounts(const ExecutorFigures& other) {
  constexpr std::array kCounts = {
      &ExecutorFigures::steps,          &ExecutorFigures::step_tokens,  &ExecutorFigures::losses,
      &ExecutorFigures::moved,          &ExecutorFigures::preemptions,  &ExecutorFigures::prefix_tokens,
      &ExecutorFigures::prefix_hits,    &ExecutorFigures::weight_bytes, &ExecutorFigures::audits,
      &ExecutorFigures::audit_kl_nnats, &ExecutorFigures::plan_ns,      &ExecutorFigures::wire_ns,
      &ExecutorFigures::queue_ns,       &ExecutorFigures::compute_ns};
  for (const auto member : kCounts) {
    this->*member += other.*member;
  }
  for (size_t kind = 0; kind < group_tokens.size(); ++kind) {
    for (size_t bits = 0; bits < group_tokens[kind].size(); ++bits) {
      group_tokens[kind][bits] += other.group_tokens[kind][bits];
    }
  }
}

}  // namespace flexquant::controller
