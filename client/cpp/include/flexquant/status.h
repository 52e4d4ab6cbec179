#ifndef FLEXQUANT_CLIENT_CPP_INCLUDE_FLEXQUANT_STATUS_H_
#define FLEXQUANT_CLIENT_CPP_INCLUDE_FLEXQUANT_STATUS_H_

// How calls of the SDK end: the SDK throws no exceptions of its own.

#include <chrono>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

// What the library exports.
#define FLEXQUANT_API __attribute__((visibility("default")))

namespace flexquant {

// gRPC's canonical codes, with their numbers.
enum class StatusCode : int {
  kOk = 0,
  kCancelled = 1,
  kUnknown = 2,
  kInvalidArgument = 3,
  kDeadlineExceeded = 4,
  kNotFound = 5,
  kAlreadyExists = 6,
  kPermissionDenied = 7,
  kResourceExhausted = 8,
  kFailedPrecondition = 9,
  kAborted = 10,
  kOutOfRange = 11,
  kUnimplemented = 12,
  kInternal = 13,
  kUnavailable = 14,
  kDataLoss = 15,
  kUnauthenticated = 16,
};

// "INVALID_ARGUMENT" and so on; "UNKNOWN" for numbers that are none.
FLEXQUANT_API const char* StatusCodeName(StatusCode code);

// A field of the request that the server refused.
struct FieldError {
  std::string field;  // its path in flexquant.v1, such as "sampling.top_p"
  std::string description;
};

// OK or an error. What a call ends with is said at the call.
struct [[nodiscard]] Status {
  StatusCode code = StatusCode::kOk;
  std::string message;  // for people: the offending value and the remedy
  std::vector<FieldError> field_errors;
  std::string reason;                                   // of the server's ErrorInfo, such as "EXECUTOR_LOST"; or empty
  std::optional<std::chrono::nanoseconds> retry_delay;  // set: after so long the same call may succeed

  bool ok() const { return code == StatusCode::kOk; }
  explicit operator bool() const { return ok(); }
  // "CODE: message", then one indented line for each field and the delay.
  FLEXQUANT_API std::string ToString() const;
};

// A value, or the error why there is none. Reading a value that is not there throws std::bad_variant_access.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<1>, std::move(value)) {}
  Result(Status status) : state_(std::in_place_index<0>, std::move(status)) {}  // not OK

  bool ok() const { return state_.index() == 1; }
  explicit operator bool() const { return ok(); }
  Status status() const { return ok() ? Status() : std::get<0>(state_); }

  T& value() & { return std::get<1>(state_); }
  const T& value() const& { return std::get<1>(state_); }
  T&& value() && { return std::get<1>(std::move(state_)); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

 private:
  std::variant<Status, T> state_;
};

}  // namespace flexquant

#endif  // FLEXQUANT_CLIENT_CPP_INCLUDE_FLEXQUANT_STATUS_H_
