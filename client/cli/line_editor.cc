#include "client/cli/line_editor.h"

#include <cstdlib>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

#ifdef FLEXQUANT_LINE_EDITING
#include <fcntl.h>
#include <histedit.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <clocale>
#include <cstdio>
#include <cwchar>
#include <filesystem>

#include "client/cli/interrupt.h"
#include "client/cli/terminal.h"
#include "common/status_macros.h"
#endif

namespace flexquant::cli {

#ifdef FLEXQUANT_LINE_EDITING
namespace {

constexpr int kHistoryLines = 1000;

// libedit's three answers to "the next character".
constexpr int kRead = 1;
constexpr int kEnd = 0;
constexpr int kFailed = -1;

class LibeditEditor final : public LineEditor {
 public:
  explicit LibeditEditor(const std::string& file)
      : file_(file), history_(history_init()), edit_(el_init("flexquant", stdin, stderr, stderr)) {
    HistEvent event;
    history(history_, &event, H_SETSIZE, kHistoryLines);
    history(history_, &event, H_SETUNIQUE, 1);
    if (!file_.empty()) {
      history(history_, &event, H_LOAD, file_.c_str());
    }
    el_set(edit_, EL_CLIENTDATA, this);
    el_set(edit_, EL_EDITOR, "emacs");
    el_set(edit_, EL_HIST, history, history_);
    el_set(edit_, EL_PROMPT, Prompt);
    el_set(edit_, EL_GETCFN, ReadCharacter);
    el_set(edit_, EL_SIGNAL, 0);  // Interrupt's
    el_set(edit_, EL_BIND, "^R", "em-inc-search-prev", nullptr);
    el_source(edit_, nullptr);  // the user's ~/.editrc
  }

  ~LibeditEditor() override {
    el_end(edit_);
    history_end(history_);
  }

  LibeditEditor(const LibeditEditor&) = delete;
  LibeditEditor& operator=(const LibeditEditor&) = delete;

  absl::StatusOr<std::optional<std::string>> ReadLine(const std::string& prompt) override {
    prompt_ = prompt;
    had_text_ = false;
    int count = 0;
    const char* line = el_gets(edit_, &count);
    if (const absl::Status stopped = Interrupt::Check(); !stopped.ok()) {
      std::fputs("^C\n", stderr);
      // What was typed is not to come back with the next prompt.
      el_reset(edit_);
      return stopped;
    }
    if (line == nullptr || count <= 0) {
      std::fputc('\n', stderr);
      return std::nullopt;
    }
    std::string text(line, static_cast<size_t>(count));
    if (text.back() == '\n') {
      text.pop_back();
    }
    return text;
  }

  bool had_text() const override { return had_text_; }

  absl::Status Remember(const std::string& line) override {
    HistEvent event;
    history(history_, &event, H_ENTER, line.c_str());
    if (file_.empty()) {
      return absl::OkStatus();
    }
    absl::Status saved = Save();
    if (!saved.ok()) {
      file_.clear();
    }
    return saved;
  }

 private:
  static LibeditEditor& Of(EditLine* edit) {
    void* self = nullptr;
    el_get(edit, EL_CLIENTDATA, &self);
    return *static_cast<LibeditEditor*>(self);
  }

  static char* Prompt(EditLine* edit) { return Of(edit).prompt_.data(); }

  // libedit's own waits in read() alone, which Ctrl-C does not end: its signal goes to another thread.
  static int ReadCharacter(EditLine* edit, wchar_t* character) {
    std::mbstate_t state = {};
    while (true) {
      std::array<pollfd, 2> fds = {pollfd{STDIN_FILENO, POLLIN, 0}, pollfd{Interrupt::Fd(), POLLIN, 0}};
      if (poll(fds.data(), fds.size(), -1) < 0) {
        if (errno == EINTR) {
          continue;
        }
        return kFailed;
      }
      if (Interrupt::Requested()) {
        const LineInfo* line = el_line(edit);
        Of(edit).had_text_ = line->lastchar != line->buffer;
        return kFailed;
      }
      char byte = 0;
      const ssize_t size = read(STDIN_FILENO, &byte, 1);
      if (size <= 0) {
        return size == 0 ? kEnd : kFailed;
      }
      const size_t used = std::mbrtowc(character, &byte, 1, &state);
      if (used == static_cast<size_t>(-1)) {
        state = {};  // not UTF-8: dropped
      } else if (used != static_cast<size_t>(-2)) {
        return kRead;
      }
    }
  }

  // Another file that takes the place of the first, so that a chat beside this one never reads half of it.
  absl::Status Save() {
    const std::filesystem::path folder = std::filesystem::path(file_).parent_path();
    std::error_code error;
    if (std::filesystem::create_directories(folder, error); !error) {
      std::filesystem::permissions(folder, std::filesystem::perms::owner_all, error);
    }
    const std::string fresh = absl::StrCat(file_, ".", getpid());
    const int fd = open(fresh.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, S_IRUSR | S_IWUSR);
    if (fd < 0) {
      return absl::ErrnoToStatus(errno, absl::StrCat("the chat's lines are not kept: writing ", fresh));
    }
    FILE* file = fdopen(fd, "w");
    HistEvent event;
    const bool written = history(history_, &event, H_SAVE_FP, file) >= 0;
    const bool closed = std::fclose(file) == 0;
    if (!written || !closed || std::rename(fresh.c_str(), file_.c_str()) != 0) {
      const int reason = errno;
      unlink(fresh.c_str());
      return absl::ErrnoToStatus(reason, absl::StrCat("the chat's lines are not kept: writing ", file_));
    }
    return absl::OkStatus();
  }

  std::string file_;
  History* history_;
  EditLine* edit_;
  std::string prompt_;
  bool had_text_ = false;
};

}  // namespace

std::unique_ptr<LineEditor> LineEditor::Create(const std::string& history) {
  if (!IsTerminal(stdin) || !IsTerminal(stderr)) {
    return nullptr;
  }
  std::setlocale(LC_CTYPE, "C.UTF-8");
  return std::make_unique<LibeditEditor>(history);
}
#else
std::unique_ptr<LineEditor> LineEditor::Create(const std::string& /*history*/) { return nullptr; }
#endif

std::string HistoryFile() {
  const auto folder = [](const char* variable) {
    const char* value = std::getenv(variable);
    // A relative one counts as unset: the XDG base directory specification.
    return value != nullptr && absl::StartsWith(value, "/") ? std::string(value) : std::string();
  };
  std::string state = folder("XDG_STATE_HOME");
  if (state.empty()) {
    const std::string home = folder("HOME");
    state = home.empty() ? "" : absl::StrCat(home, "/.local/state");
  }
  return state.empty() ? "" : absl::StrCat(state, "/flexquant/chat_history");
}

}  // namespace flexquant::cli
