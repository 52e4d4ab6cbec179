#include "client/cli/token_printer.h"

#include <cstdio>
#include <string>

#include "absl/strings/str_cat.h"
#include "client/cli/terminal.h"
#include "common/precision.h"

namespace flexquant::cli {

TokenPrinter::TokenPrinter(bool color) : color_(color), terminal_(IsTerminal(stdout)) {}

void TokenPrinter::Print(const v1::GenerationDelta& delta) {
  if (delta.text().empty()) {
    return;
  }
  std::string text = terminal_ ? WithoutControls(delta.text()) : delta.text();
  at_line_start_ = !text.empty() ? text.back() == '\n' : at_line_start_;
  if (color_ && delta.tokens_size() > 0) {
    double bits = 0;
    for (const v1::TokenInfo& token : delta.tokens()) {
      bits += token.bits() / delta.tokens_size();
    }
    text = absl::StrCat(BitsColor(bits), text, ColorEnd());
  }
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

void TokenPrinter::Finish() {
  if (!at_line_start_) {
    std::fputc('\n', stdout);
    std::fflush(stdout);
  }
}

void PrintLegend() {
  std::string legend = "bits:";
  for (const int bits : kPrecisions) {
    absl::StrAppend(&legend, " ", BitsColor(bits), bits, ColorEnd());
  }
  std::fprintf(stderr, "%s\n", legend.c_str());
}

}  // namespace flexquant::cli
