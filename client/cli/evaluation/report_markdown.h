#ifndef FLEXQUANT_CLIENT_CLI_EVALUATION_REPORT_MARKDOWN_H_
#define FLEXQUANT_CLIENT_CLI_EVALUATION_REPORT_MARKDOWN_H_

#include <string>

#include "client/cli/json_output.h"

namespace flexquant::cli {

// The tables of a report as MakeReport writes it, for documents: a heading and a table each, numbers with their
// intervals, rounded as documents need them. What the report leaves out has no table.
std::string ReportMarkdown(const Json& report);

}  // namespace flexquant::cli

#endif  // FLEXQUANT_CLIENT_CLI_EVALUATION_REPORT_MARKDOWN_H_
