#include "client/cli/terminal.h"

#include <unistd.h>

#include <array>
#include <cmath>
#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/precision.h"

namespace flexquant::cli {
namespace {

// From cold to hot; of the 256-colour palette, readable on light and dark.
constexpr std::array<std::pair<int, int>, 6> kColors = {
    {{3, 33}, {4, 37}, {5, 70}, {6, 178}, {8, 202}, {kReferencePrecision, 134}}};

}  // namespace

void AddColorFlag(CLI::App& app, std::string& color) {
  app.add_option("--color", color,
                 "Colour each token by its bits: auto (on a terminal, unless NO_COLOR is set), always "
                 "or never")
      ->check(CLI::IsMember({"auto", "always", "never"}))
      ->capture_default_str();
}

bool IsTerminal(FILE* stream) { return isatty(fileno(stream)) == 1; }

bool UseColor(const std::string& color, FILE* stream) {
  if (color != "auto") {
    return color == "always";
  }
  const char* no_color = std::getenv("NO_COLOR");
  return IsTerminal(stream) && (no_color == nullptr || *no_color == '\0');
}

int NearestPrecision(double bits) {
  int nearest = kColors[0].first;
  for (const auto& [precision, color] : kColors) {
    if (std::abs(precision - bits) < std::abs(nearest - bits)) {
      nearest = precision;
    }
  }
  return nearest;
}

std::string BitsColor(double bits) {
  const int nearest = NearestPrecision(bits);
  for (const auto& [precision, color] : kColors) {
    if (precision == nearest) {
      return absl::StrCat("\x1b[38;5;", color, "m");
    }
  }
  return "";
}

absl::string_view ColorEnd() { return "\x1b[0m"; }

std::string WithoutControls(absl::string_view text) {
  std::string result;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    // U+0080 to U+009F are controls too: C2 80 to C2 9F.
    if (byte == 0xC2 && i + 1 < text.size() && static_cast<unsigned char>(text[i + 1]) < 0xA0) {
      ++i;
      continue;
    }
    if ((byte >= 0x20 && byte != 0x7F) || byte == '\n' || byte == '\t') {
      result.push_back(text[i]);
    }
  }
  return result;
}

std::string HumanBytes(double bytes) {
  for (const auto& [unit, name] : {std::pair(1e12, "TB"), {1e9, "GB"}, {1e6, "MB"}, {1e3, "kB"}}) {
    if (bytes >= unit) {
      return absl::StrFormat("%.3g %s", bytes / unit, name);
    }
  }
  return absl::StrFormat("%.0f B", bytes);
}

std::string HumanSeconds(double seconds) {
  const auto whole = static_cast<int64_t>(std::llround(seconds));
  if (whole >= 3600) {
    return absl::StrFormat("%d:%02d:%02d", whole / 3600, whole / 60 % 60, whole % 60);
  }
  return whole >= 60 ? absl::StrFormat("%d:%02d", whole / 60, whole % 60) : absl::StrCat(whole, " s");
}

}  // namespace flexquant::cli
