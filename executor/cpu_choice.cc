#include "executor/cpu_choice.h"

#include <optional>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/thread_pool.h"

namespace flexquant::executor {

absl::StatusOr<std::vector<int>> ChooseCpus(bool pin, int first_core, int num_threads) {
  if (!pin) {
    return std::vector<int>();
  }
  const std::vector<int> cores = PhysicalCpus();
  if (first_core + num_threads > static_cast<int>(cores.size())) {
    return absl::InvalidArgumentError(absl::StrCat("pinning ", first_core + num_threads,
                                                   " threads to cores of their own: this process may use ",
                                                   cores.size(), "; lower --threads or leave out --pin"));
  }
  const auto first = cores.begin() + first_core;
  return std::vector<int>(first, first + num_threads);
}

absl::StatusOr<Isa> ChooseIsa(const std::string& name) {
  if (name.empty()) {
    return BestIsa();
  }
  const std::optional<Isa> isa = ParseIsa(name);
  if (isa.has_value() && IsaSupported(*isa)) {
    return *isa;
  }
  std::vector<std::string> usable;
  for (const Isa candidate : AllIsas()) {
    if (IsaSupported(candidate)) {
      usable.emplace_back(IsaName(candidate));
    }
  }
  return absl::InvalidArgumentError(absl::StrCat("instruction set '", name, "' ",
                                                 isa.has_value() ? "is not supported by this machine" : "is unknown",
                                                 "; usable here: ", absl::StrJoin(usable, ", ")));
}

}  // namespace flexquant::executor
