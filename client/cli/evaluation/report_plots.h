#ifndef FLEXQUANT_CLIENT_CLI_EVALUATION_REPORT_PLOTS_H_
#define FLEXQUANT_CLIENT_CLI_EVALUATION_REPORT_PLOTS_H_

#include <string>

#include "client/cli/json_output.h"

namespace flexquant::cli {

// Images of a report's JSON, each one SVG.
std::string KlAgainstBytesSvg(const Json& report);
std::string PredictionSvg(const Json& report);
std::string TraceSvg(const Json& report);

}  // namespace flexquant::cli

#endif  // FLEXQUANT_CLIENT_CLI_EVALUATION_REPORT_PLOTS_H_
