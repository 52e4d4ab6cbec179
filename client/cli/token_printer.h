#ifndef FLEXQUANT_CLIENT_CLI_TOKEN_PRINTER_H_
#define FLEXQUANT_CLIENT_CLI_TOKEN_PRINTER_H_

#include "flexquant/v1/inference.pb.h"

namespace flexquant::cli {

// Streams an answer's text to standard output, on a terminal without control characters, each token in the colour of
// its bits if asked to.
class TokenPrinter {
 public:
  explicit TokenPrinter(bool color);
  void Print(const v1::GenerationDelta& delta);
  // Ends the text's line.
  void Finish();

 private:
  const bool color_;
  const bool terminal_;
  bool at_line_start_ = true;
};

// Prints "bits: 3 4 5 6 8", each in its colour, on standard error.
void PrintLegend();

}  // namespace flexquant::cli

#endif  // FLEXQUANT_CLIENT_CLI_TOKEN_PRINTER_H_
