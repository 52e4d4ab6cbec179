#include "client/cli/top_view.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/terminal.h"

namespace flexquant::cli {
namespace {

constexpr int kMinBarCells = 5;
constexpr int kMaxBarCells = 40;
// Of the 256-colour palette: readable on light and dark.
constexpr char kCalm[] = "\x1b[38;5;70m";
constexpr char kBusy[] = "\x1b[38;5;178m";
constexpr char kFull[] = "\x1b[38;5;202m";

// `text` in at most `width` columns. What servers say is mostly ASCII; a cut inside a character leaves the whole
// character out.
std::string Cut(const std::string& text, size_t width) {
  std::string clean = WithoutControls(text);
  std::replace(clean.begin(), clean.end(), '\n', ' ');
  if (clean.size() <= width) {
    return clean;
  }
  size_t end = width;
  while (end > 0 && (static_cast<unsigned char>(clean[end]) & 0xC0) == 0x80) {
    --end;
  }
  return clean.substr(0, end);
}

std::string Bar(double fraction, int cells, bool color) {
  const int full = std::clamp(static_cast<int>(std::lround(fraction * cells)), 0, cells);
  const std::string marks(static_cast<size_t>(full), '#');
  const std::string rest(static_cast<size_t>(cells - full), '.');
  if (!color) {
    return absl::StrCat("[", marks, rest, "]");
  }
  const char* shade = fraction < 0.7 ? kCalm : fraction < 0.9 ? kBusy : kFull;
  return absl::StrCat("[", shade, marks, ColorEnd(), rest, "]");
}

std::string ExecutorLine(const v1::ExecutorInfo& executor, size_t name_width, size_t width, bool color) {
  const uint64_t used = uint64_t{executor.kv_blocks_used()} * executor.kv_block_tokens();
  const uint64_t all = uint64_t{executor.num_kv_blocks()} * executor.kv_block_tokens();
  const double share = all > 0 ? static_cast<double>(used) / static_cast<double>(all) : 0;
  const std::string begin = absl::StrFormat("%-*s %-9s %9d ", name_width, Cut(executor.address(), name_width),
                                            executor.ready() ? "ready" : "not ready", executor.running_sequences());
  const std::string figures = absl::StrFormat(" %3.0f %% of %d tokens", 100 * share, all);
  const std::string device = absl::StrCat("  ", executor.device());
  const auto room = static_cast<int64_t>(width) - static_cast<int64_t>(begin.size() + figures.size()) - 2;
  const int cells = static_cast<int>(std::min<int64_t>(room - static_cast<int64_t>(device.size()), kMaxBarCells));
  if (cells >= kMinBarCells) {
    return absl::StrCat(Cut(begin, width), Bar(share, cells, color), figures, Cut(device, width));
  }
  // Narrow: the device's name gives way first, then the bar.
  if (room >= kMinBarCells) {
    return absl::StrCat(Cut(begin, width), Bar(share, static_cast<int>(std::min<int64_t>(room, kMaxBarCells)), color),
                        figures);
  }
  return Cut(absl::StrCat(begin, figures), width);
}

}  // namespace

std::vector<std::string> TopLines(const std::string& server, const v1::ServerInfo& info, int width, bool color) {
  const auto columns = static_cast<size_t>(std::max(width, 1));
  std::vector<std::string> lines = {
      Cut(absl::StrCat(info.model(), " at ", server, ", version ", info.server_version(), ", instance ",
                       info.instance_id()),
          columns),
      Cut(absl::StrFormat("requests: %d running, %d waiting; at most %d sequences in a step", info.running_requests(),
                          info.waiting_requests(), info.max_batch_sequences()),
          columns),
      ""};
  size_t name_width = 8;
  for (const v1::ExecutorInfo& executor : info.executors()) {
    name_width = std::max(name_width, executor.address().size());
  }
  name_width = std::min(name_width, std::max<size_t>(columns / 3, 8));
  lines.push_back(
      Cut(absl::StrFormat("%-*s %-9s %9s %s", name_width, "executor", "state", "sequences", "KV cache"), columns));
  for (const v1::ExecutorInfo& executor : info.executors()) {
    lines.push_back(ExecutorLine(executor, name_width, columns, color));
  }
  return lines;
}

Screen::Screen() {
  if (tcgetattr(STDIN_FILENO, &keys_before_) == 0) {
    termios quiet = keys_before_;
    quiet.c_lflag &= ~static_cast<tcflag_t>(ICANON | ECHO);
    keys_changed_ = tcsetattr(STDIN_FILENO, TCSANOW, &quiet) == 0;
  }
  // The alternate screen, without a cursor.
  std::fputs("\x1b[?1049h\x1b[?25l", stdout);
  std::fflush(stdout);
}

Screen::~Screen() {
  std::fputs("\x1b[?25h\x1b[?1049l", stdout);
  std::fflush(stdout);
  if (keys_changed_) {
    tcsetattr(STDIN_FILENO, TCSANOW, &keys_before_);
  }
}

void Screen::Draw(const std::vector<std::string>& lines) const {
  const auto rows = static_cast<size_t>(ScreenSize().second);
  // Written over what was there: erasing first would flicker.
  std::string text = "\x1b[H";
  for (size_t i = 0; i < std::min(lines.size(), rows); ++i) {
    absl::StrAppend(&text, i > 0 ? "\r\n" : "", lines[i], "\x1b[K");
  }
  text += "\x1b[J";
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

std::pair<int, int> ScreenSize() {
  winsize size = {};
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0 || size.ws_row == 0) {
    return {80, 24};
  }
  return {size.ws_col, size.ws_row};
}

}  // namespace flexquant::cli
