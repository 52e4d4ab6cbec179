#ifndef FLEXQUANT_CLIENT_CLI_RIVAL_H_
#define FLEXQUANT_CLIENT_CLI_RIVAL_H_

#include <sys/types.h>

#include <cstdio>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace flexquant::cli {

// llama.cpp in a process of its own (tools/rival_bench.py), which measures when asked to. Not thread-safe.
class Rival {
 public:
  // `python` has llama-cpp-python; `script` is tools/rival_bench.py. FAILED_PRECONDITION if it does not come up; its
  // reasons are on standard error.
  static absl::StatusOr<std::unique_ptr<Rival>> Start(const std::string& python, const std::string& script,
                                                      const std::string& gguf, int threads);
  ~Rival();

  // Tokens a second of one run; `what` is "prefill", "decode", or "decode-S" for S sequences together, each of
  // `tokens`.
  absl::StatusOr<double> Measure(const std::string& what, uint32_t tokens);
  // Version of llama-cpp-python.
  const std::string& version() const { return version_; }

 private:
  Rival() = default;
  absl::StatusOr<std::string> ReadLine();

  pid_t pid_ = -1;
  FILE* commands_ = nullptr;
  FILE* answers_ = nullptr;
  std::string version_;
};

}  // namespace flexquant::cli

#endif  // FLEXQUANT_CLIENT_CLI_RIVAL_H_
