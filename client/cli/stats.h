#ifndef FLEXQUANT_CLIENT_CLI_STATS_H_
#define FLEXQUANT_CLIENT_CLI_STATS_H_

#include <vector>

namespace flexquant::cli {

// Median and extremes of repeated measurements.
struct Spread {
  double median = 0;
  double min = 0;
  double max = 0;
};

// `values` is not empty.
Spread Summarize(std::vector<double> values);

}  // namespace flexquant::cli

#endif  // FLEXQUANT_CLIENT_CLI_STATS_H_
