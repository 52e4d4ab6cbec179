#ifndef FLEXQUANT_CLIENT_CLI_TERMINAL_H_
#define FLEXQUANT_CLIENT_CLI_TERMINAL_H_

#include <cstdint>
#include <cstdio>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/strings/string_view.h"

namespace flexquant::cli {

// Adds --color auto|always|never.
void AddColorFlag(CLI::App& app, std::string& color);
// Whether to colour what goes to `stream`. "auto": it is a terminal, and NO_COLOR is unset or empty.
bool UseColor(const std::string& color, FILE* stream);

bool IsTerminal(FILE* stream);

// Escape sequence that starts the colour of a precision in bits (of the nearest one for a mean), and the one that ends
// it.
std::string BitsColor(double bits);
absl::string_view ColorEnd();

// `text` without control characters other than newline and tab: a model's answer must not steer a terminal.
std::string WithoutControls(absl::string_view text);

// Nearest of 3, 4, 5, 6, 8 and 16.
int NearestPrecision(double bits);

// "1.23 GB", "45.6 MB", "789 B"; decimal units.
std::string HumanBytes(double bytes);
// "1:02:03", "2:05" or "12 s".
std::string HumanSeconds(double seconds);

}  // namespace flexquant::cli

#endif  // FLEXQUANT_CLIENT_CLI_TERMINAL_H_
