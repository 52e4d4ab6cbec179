#ifndef FLEXQUANT_CLIENT_CLI_EVALUATION_REPORT_HTML_H_
#define FLEXQUANT_CLIENT_CLI_EVALUATION_REPORT_HTML_H_

#include <string>

#include "client/cli/json_output.h"

namespace flexquant::cli {

// One page of a report as MakeReport writes it: tables and inline images, without scripts or outside resources, legible
// on dark and light ground.
std::string ReportHtml(const Json& report);

}  // namespace flexquant::cli

#endif  // FLEXQUANT_CLIENT_CLI_EVALUATION_REPORT_HTML_H_
