#ifndef FLEXQUANT_CLIENT_CLI_LOAD_LOAD_REPORT_H_
#define FLEXQUANT_CLIENT_CLI_LOAD_LOAD_REPORT_H_

#include <map>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "client/cli/json_output.h"
#include "client/cli/load/load_run.h"

namespace flexquant::cli {

// The times that an answer has to keep to be counted as good.
struct LoadLimits {
  absl::Duration time_to_first_token = absl::InfiniteDuration();
  absl::Duration time_per_output_token = absl::InfiniteDuration();
};

// Percentiles of a sample; 0 if it is empty.
struct Percentiles {
  double p50 = 0;
  double p90 = 0;
  double p99 = 0;
  double max = 0;
};

// What a run came to.
struct LoadSummary {
  size_t requests = 0;
  std::map<std::string, size_t> outcomes;  // "ok", "cancelled by the client", or a status's code
  double seconds = 0;                      // until the last end
  double tokens_per_second = 0;
  double answers_per_second = 0;       // that ended well
  double good_answers_per_second = 0;  // and kept the limits
  Percentiles ttft_ms;                 // of answers that ended well
  Percentiles tpot_ms;
  Percentiles gap_ms;   // the longest of an answer between two messages
  Percentiles late_ms;  // how late the requests were sent: the load generator's own fault
  double mean_bits = 0;  // bytes read, as a share of those at 8 bits, times 8
};

LoadSummary Summarize(const std::vector<LoadResult>& results, const LoadLimits& limits);
Json ToJson(const LoadSummary& summary);
std::string ToText(const LoadSummary& summary);
// Share of the answers by time to first token and by time per output token, and both over the run.
std::string LoadPlot(const std::vector<LoadResult>& results, const LoadSummary& summary);

}  // namespace flexquant::cli

#endif  // FLEXQUANT_CLIENT_CLI_LOAD_LOAD_REPORT_H_
