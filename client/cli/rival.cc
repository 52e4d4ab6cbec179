#include "client/cli/rival.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdlib>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "nlohmann/json.hpp"

namespace flexquant::cli {
namespace {

// Starts argv with its standard input and output on the two descriptors. 0 or an errno.
int Spawn(std::vector<std::string> words, int input, int output, pid_t* pid) {
  std::vector<char*> argv;
  argv.reserve(words.size() + 1);
  for (std::string& word : words) {
    argv.push_back(word.data());
  }
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, input, STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO);
  // This process blocks SIGINT and SIGTERM; its child must not.
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t none;
  sigemptyset(&none);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
  const int error = posix_spawnp(pid, argv[0], &actions, &attributes, argv.data(), environ);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  return error;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Rival>> Rival::Start(const std::string& python, const std::string& script,
                                                    const std::string& gguf, int threads) {
  std::array<int, 2> commands;
  std::array<int, 2> answers;
  if (pipe2(commands.data(), O_CLOEXEC) != 0) {
    return absl::ErrnoToStatus(errno, "pipe");
  }
  if (pipe2(answers.data(), O_CLOEXEC) != 0) {
    return absl::ErrnoToStatus(errno, "pipe");
  }
  auto rival = std::unique_ptr<Rival>(new Rival);
  const int error = Spawn({python, script, gguf, "--threads", std::to_string(threads), "--interactive"}, commands[0],
                          answers[1], &rival->pid_);
  close(commands[0]);
  close(answers[1]);
  rival->commands_ = fdopen(commands[1], "w");
  rival->answers_ = fdopen(answers[0], "r");
  if (error != 0) {
    rival->pid_ = -1;
    return absl::ErrnoToStatus(error, absl::StrCat("starting ", python, " (--rival-python)"));
  }
  // A rival that died must be an error, not this process's end.
  std::signal(SIGPIPE, SIG_IGN);
  FQ_ASSIGN_OR_RETURN(const std::string line, rival->ReadLine());
  const auto json = nlohmann::json::parse(line, nullptr, false);
  if (!json.is_object() || !json.contains("ready")) {
    return absl::FailedPreconditionError(absl::StrCat(script, " said: ", line));
  }
  rival->version_ = json.value("llama_cpp_python", "");
  return rival;
}

Rival::~Rival() {
  if (commands_ != nullptr) {
    std::fclose(commands_);
  }
  if (answers_ != nullptr) {
    std::fclose(answers_);
  }
  if (pid_ > 0) {
    kill(pid_, SIGTERM);
    waitpid(pid_, nullptr, 0);
  }
}

absl::StatusOr<std::string> Rival::ReadLine() {
  char* line = nullptr;
  size_t capacity = 0;
  const ssize_t size = getline(&line, &capacity, answers_);
  std::string text(line == nullptr ? "" : line, size > 0 ? static_cast<size_t>(size) : 0);
  std::free(line);
  if (size <= 0) {
    return absl::FailedPreconditionError(
        "the rival's process ended; its reason is above. Does --rival-python have llama-cpp-python, and is --against a "
        "GGUF file it can load?");
  }
  return text;
}

absl::StatusOr<double> Rival::Measure(const std::string& what, uint32_t tokens) {
  std::fprintf(commands_, "%s %u\n", what.c_str(), tokens);
  std::fflush(commands_);
  FQ_ASSIGN_OR_RETURN(const std::string line, ReadLine());
  const auto json = nlohmann::json::parse(line, nullptr, false);
  const double seconds = json.is_object() ? json.value("seconds", 0.0) : 0.0;
  if (!(seconds > 0)) {
    return absl::InternalError(absl::StrCat("the rival said: ", line));
  }
  return json.value("tokens", 0.0) / seconds;
}

}  // namespace flexquant::cli
