#ifndef FLEXQUANT_CLIENT_CLI_EVALUATION_REPORT_CELLS_H_
#define FLEXQUANT_CLIENT_CLI_EVALUATION_REPORT_CELLS_H_

#include <string>

#include "client/cli/json_output.h"

namespace flexquant::cli {

// How a number is written: `%.3g` has 3 significant digits, `%.3f` as many behind the point.
struct NumberFormat {
  int digits = 3;
  bool fixed = false;
  double factor = 1;  // times the number
};

// A number of a report; "-" where there is none.
std::string NumberCell(const Json& value, const NumberFormat& format);

// "value (low-high)" with `between` instead of the hyphen, of {"value", "low", "high"}; "-" where there is no value,
// and "?" for an end that could not be computed.
std::string IntervalCell(const Json& figure, const NumberFormat& format, const std::string& between);

}  // namespace flexquant::cli

#endif  // FLEXQUANT_CLIENT_CLI_EVALUATION_REPORT_CELLS_H_
