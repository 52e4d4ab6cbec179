#ifndef FLEXQUANT_CLIENT_CLI_REPORT_H_
#define FLEXQUANT_CLIENT_CLI_REPORT_H_

#include <string>

#include "client/cli/answer.h"

namespace flexquant::cli {

// The precision report for people: histogram with bars, mean bits, bytes read against the top precision, times,
// calibration state. Ends with a newline.
std::string ReportText(const Answer& answer, bool color);

}  // namespace flexquant::cli

#endif  // FLEXQUANT_CLIENT_CLI_REPORT_H_
