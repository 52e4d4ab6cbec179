#include "client/cli/input.h"

#include <poll.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/cli/interrupt.h"
#include "common/status_macros.h"

namespace flexquant::cli {

absl::StatusOr<bool> Input::Fill() {
  std::array<pollfd, 2> fds = {pollfd{STDIN_FILENO, POLLIN, 0}, pollfd{Interrupt::Fd(), POLLIN, 0}};
  while (poll(fds.data(), fds.size(), -1) < 0) {
    if (errno != EINTR) {
      return absl::ErrnoToStatus(errno, "waiting for standard input");
    }
  }
  FQ_RETURN_IF_ERROR(Interrupt::Check());
  std::array<char, 65536> chunk;
  const ssize_t size = read(STDIN_FILENO, chunk.data(), chunk.size());
  if (size < 0) {
    return absl::ErrnoToStatus(errno, "reading standard input");
  }
  buffer_.append(chunk.data(), static_cast<size_t>(size));
  return size > 0;
}

absl::StatusOr<std::optional<std::string>> Input::ReadLine() {
  while (true) {
    const size_t end = buffer_.find('\n');
    if (end != std::string::npos) {
      std::string line = buffer_.substr(0, end);
      buffer_.erase(0, end + 1);
      return line;
    }
    FQ_ASSIGN_OR_RETURN(const bool more, Fill());
    if (!more) {
      return buffer_.empty() ? std::nullopt : std::optional(std::exchange(buffer_, {}));
    }
  }
}

absl::StatusOr<std::string> Input::ReadAll(size_t max_bytes) {
  while (true) {
    FQ_ASSIGN_OR_RETURN(const bool more, Fill());
    if (buffer_.size() > max_bytes) {
      return absl::ResourceExhaustedError(
          absl::StrCat("standard input holds more than ", max_bytes, " bytes, the most a prompt may have"));
    }
    if (!more) {
      return std::exchange(buffer_, {});
    }
  }
}

}  // namespace flexquant::cli
