#include "client/cli/progress.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/terminal.h"

namespace flexquant::cli {
namespace {

constexpr absl::Duration kRedrawPeriod = absl::Milliseconds(100);
constexpr int kBarCells = 24;
constexpr char kClearLine[] = "\r\x1b[K";

std::string Bar(double fraction) {
  const int full = static_cast<int>(std::lround(fraction * kBarCells));
  std::string bar;
  for (int i = 0; i < kBarCells; ++i) {
    bar += i < full ? "█" : "░";
  }
  return bar;
}

}  // namespace

Progress::Progress(std::string unit) : unit_(std::move(unit)), terminal_(IsTerminal(stderr)) {}

Progress::~Progress() {
  if (terminal_) {
    std::fputs(kClearLine, stderr);
  }
}

std::string Progress::Amount(double value) const {
  return unit_ == "B" ? HumanBytes(value) : absl::StrFormat("%.*f %s", value < 10 ? 1 : 0, value, unit_);
}

void Progress::Update(uint64_t done, uint64_t total, const std::string& what) {
  if (total == 0) {
    return;
  }
  const absl::Time now = absl::Now();
  if (terminal_) {
    if (now - last_draw_ >= kRedrawPeriod || done >= total) {
      last_draw_ = now;
      Draw(done, total, what, now);
    }
    return;
  }
  const uint64_t tenth = std::min<uint64_t>(10, done / std::max<uint64_t>(1, total / 10));
  if (tenth > last_tenth_) {
    last_tenth_ = tenth;
    std::fprintf(stderr, "%3.0f %%  %s of %s  %s\n", 100.0 * static_cast<double>(done) / static_cast<double>(total),
                 Amount(static_cast<double>(done)).c_str(), Amount(static_cast<double>(total)).c_str(),
                 HumanSeconds(absl::ToDoubleSeconds(now - start_)).c_str());
  }
}

void Progress::Draw(uint64_t done, uint64_t total, const std::string& what, absl::Time now) {
  const double fraction = std::min(1.0, static_cast<double>(done) / static_cast<double>(total));
  const double seconds = absl::ToDoubleSeconds(now - start_);
  std::string line = absl::StrFormat("%s%s %3.0f %%", kClearLine, Bar(fraction), 100 * fraction);
  if (seconds > 0 && done > 0) {
    const double rate = static_cast<double>(done) / seconds;
    absl::StrAppend(&line, "  ", Amount(rate), "/s  ",
                    HumanSeconds(static_cast<double>(total - std::min(done, total)) / rate), " left");
  }
  absl::StrAppend(&line, "  ", what);
  std::fputs(line.c_str(), stderr);
  std::fflush(stderr);
}

}  // namespace flexquant::cli
