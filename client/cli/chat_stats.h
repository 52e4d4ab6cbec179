#ifndef FLEXQUANT_CLIENT_CLI_CHAT_STATS_H_
#define FLEXQUANT_CLIENT_CLI_CHAT_STATS_H_

#include <cstdint>
#include <string>

#include "client/cli/answer.h"

namespace flexquant::cli {

// Figures of a chat's answers. Not thread-safe.
class ChatStats {
 public:
  void Add(const Answer& answer);
  // A table of the last answer and all together; KL in nats a token, with the number of audited tokens.
  std::string Text() const;

 private:
  struct Figures {
    uint64_t answers = 0;
    uint64_t prompt_tokens = 0;
    uint64_t tokens = 0;
    double bits = 0;  // sum over tokens
    double decode_seconds = 0;
    uint64_t decoded = 0;  // tokens but each answer's first
    double predicted_kl = 0;
    uint64_t predicted = 0;
    double audited_kl = 0;
    uint64_t audited = 0;
  };

  static Figures Of(const Answer& answer);
  static std::string Row(const char* name, const Figures& figures);

  Figures last_;
  Figures all_;
};

}  // namespace flexquant::cli

#endif  // FLEXQUANT_CLIENT_CLI_CHAT_STATS_H_
