#ifndef FLEXQUANT_CLIENT_CLI_EVALUATION_EVALUATION_LOG_H_
#define FLEXQUANT_CLIENT_CLI_EVALUATION_EVALUATION_LOG_H_

#include <cstdio>
#include <map>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/cli/json_output.h"
#include "client/cli/policy_evaluation.h"

namespace flexquant::cli {

// What an evaluation has measured so far: named pieces, a line of JSON each, in a file that is only appended to. A run
// that was interrupted goes on behind the last whole line, and gives the numbers of one that was not. Not thread-safe.
class EvaluationLog {
 public:
  // `key` names everything that changes a measured number: a file of another key is begun anew, which standard error
  // says. Errors of reading and writing name the path.
  static absl::StatusOr<std::unique_ptr<EvaluationLog>> Open(const std::string& path, const std::string& key);

  // The pieces of a log that is left as it is. Errors of reading name the path.
  static absl::StatusOr<std::map<std::string, Json>> Read(const std::string& path);

  // Null if there is no such piece.
  const Json* Find(const std::string& id) const;
  absl::Status Add(const std::string& id, Json value);

 private:
  struct Closer {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };

  EvaluationLog() = default;

  std::string path_;
  std::unique_ptr<std::FILE, Closer> file_;
  std::map<std::string, Json> pieces_;
};

// Without loss.
Json OutcomeToJson(const WindowOutcome& outcome);
// INVALID_ARGUMENT unless it is one of OutcomeToJson for `tokens` >= 1 tokens; `where` names it.
absl::StatusOr<WindowOutcome> OutcomeFromJson(const Json& json, size_t tokens, const std::string& where);

}  // namespace flexquant::cli

#endif  // FLEXQUANT_CLIENT_CLI_EVALUATION_EVALUATION_LOG_H_
