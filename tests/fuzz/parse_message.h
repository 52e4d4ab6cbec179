#ifndef FLEXQUANT_TESTS_FUZZ_PARSE_MESSAGE_H_
#define FLEXQUANT_TESTS_FUZZ_PARSE_MESSAGE_H_

#include <string>

#include "google/protobuf/message.h"
#include "google/protobuf/stubs/logging.h"

namespace flexquant::fuzz {

// Whether `bytes` are such a message; protobuf's complaints about them are not printed, for there are millions.
inline bool ParseMessage(const std::string& bytes, google::protobuf::Message* message) {
  static auto* const kBefore = google::protobuf::SetLogHandler(nullptr);
  (void)kBefore;
  return message->ParseFromString(bytes);
}

}  // namespace flexquant::fuzz

#endif  // FLEXQUANT_TESTS_FUZZ_PARSE_MESSAGE_H_
