#ifndef FLEXQUANT_EXECUTOR_CPU_CHOICE_H_
#define FLEXQUANT_EXECUTOR_CPU_CHOICE_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/kernels.h"

namespace flexquant::executor {

// A core for each of `num_threads` threads, from the `first_core`-th of PhysicalCpus() on; empty unless `pin`.
// INVALID_ARGUMENT if there are too few.
absl::StatusOr<std::vector<int>> ChooseCpus(bool pin, int first_core, int num_threads);

// The instruction set called `name`, empty = the best. INVALID_ARGUMENT, with those that this machine has, for others.
absl::StatusOr<Isa> ChooseIsa(const std::string& name);

}  // namespace flexquant::executor

#endif  // FLEXQUANT_EXECUTOR_CPU_CHOICE_H_
