// Replays inputs without a fuzzer: fuzz_corpus_test CORPUS runs every file of CORPUS/NAME through the target NAME;
// fuzz_corpus_test NAME FILE... runs those.

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

#include "common/mapped_file.h"
#include "tests/fuzz/fuzz_target.h"

namespace flexquant::fuzz {
namespace {

namespace fs = std::filesystem;

bool RunFile(FuzzBody body, const std::string& path) {
  const absl::StatusOr<std::string> input = ReadFile(path);
  if (!input.ok()) {
    std::fprintf(stderr, "%s\n", input.status().ToString().c_str());
    return false;
  }
  // Said before it runs: an input that ends the process is the last one named.
  std::printf("%s\n", path.c_str());
  std::fflush(stdout);
  body({reinterpret_cast<const uint8_t*>(input->data()), input->size()});
  return true;
}

std::vector<std::string> FilesOf(const fs::path& folder) {
  std::vector<std::string> files;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    files.push_back(entry.path().string());
  }
  std::sort(files.begin(), files.end());
  return files;
}

bool RunCorpus(const fs::path& corpus) {
  bool all = true;
  for (const auto& [name, body] : Targets()) {
    const std::vector<std::string> files = FilesOf(corpus / name);
    if (files.empty()) {
      std::fprintf(stderr, "%s: no inputs for the target %s\n", (corpus / name).c_str(), name.c_str());
      all = false;
    }
    body({});
    for (const std::string& file : files) {
      all = RunFile(body, file) && all;
    }
  }
  return all;
}

int Run(int argc, char** argv) {
  if (argc == 2 && fs::is_directory(argv[1])) {
    return RunCorpus(argv[1]) ? 0 : 1;
  }
  const auto target = argc > 2 ? Targets().find(argv[1]) : Targets().end();
  if (target == Targets().end()) {
    std::fprintf(stderr, "usage: %s CORPUS | %s TARGET FILE...; targets:", argv[0], argv[0]);
    for (const auto& [name, body] : Targets()) {
      std::fprintf(stderr, " %s", name.c_str());
    }
    std::fprintf(stderr, "\n");
    return 2;
  }
  bool all = true;
  for (int i = 2; i < argc; ++i) {
    all = RunFile(target->second, argv[i]) && all;
  }
  return all ? 0 : 1;
}

}  // namespace
}  // namespace flexquant::fuzz

int main(int argc, char** argv) { return flexquant::fuzz::Run(argc, argv); }
