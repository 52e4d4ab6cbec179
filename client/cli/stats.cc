#include "client/cli/stats.h"

#include <algorithm>

#include "common/check.h"

namespace flexquant::cli {

Spread Summarize(std::vector<double> values) {
  FQ_CHECK(!values.empty());
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  const double median = values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
  return {median, values.front(), values.back()};
}

}  // namespace flexquant::cli
