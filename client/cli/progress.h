#ifndef FLEXQUANT_CLIENT_CLI_PROGRESS_H_
#define FLEXQUANT_CLIENT_CLI_PROGRESS_H_

#include <cstdint>
#include <string>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace flexquant::cli {

// Progress of long work on standard error: on a terminal one line that redraws itself, with rate and time left; else a
// plain line at each tenth.
class Progress {
 public:
  // Amounts are counted in `unit`; "B" is written as kB, MB, GB.
  explicit Progress(std::string unit);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // `done` of `total` units, now at `what`.
  void Update(uint64_t done, uint64_t total, const std::string& what);

 private:
  std::string Amount(double value) const;
  void Draw(uint64_t done, uint64_t total, const std::string& what, absl::Time now);

  const std::string unit_;
  const bool terminal_;
  const absl::Time start_ = absl::Now();
  absl::Time last_draw_ = absl::InfinitePast();
  uint64_t last_tenth_ = 0;
};

}  // namespace flexquant::cli

#endif  // FLEXQUANT_CLIENT_CLI_PROGRESS_H_
