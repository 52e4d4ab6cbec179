#ifndef FLEXQUANT_COMMON_STATUS_MACROS_H_
#define FLEXQUANT_COMMON_STATUS_MACROS_H_

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Abseil publishes these macros only from LTS 20260526; Debian 12 ships 20220623.

#define FQ_RETURN_IF_ERROR(expr)                                \
  do {                                                          \
    if (::absl::Status fq_status_ = (expr); !fq_status_.ok()) { \
      return fq_status_;                                        \
    }                                                           \
  } while (false)

#define FQ_STATUS_CONCAT_INNER_(a, b) a##b
#define FQ_STATUS_CONCAT_(a, b) FQ_STATUS_CONCAT_INNER_(a, b)

#define FQ_ASSIGN_OR_RETURN(lhs, expr) FQ_ASSIGN_OR_RETURN_IMPL_(FQ_STATUS_CONCAT_(fq_statusor_, __LINE__), lhs, expr)

#define FQ_ASSIGN_OR_RETURN_IMPL_(statusor, lhs, expr) \
  auto statusor = (expr);                              \
  if (!statusor.ok()) {                                \
    return std::move(statusor).status();               \
  }                                                    \
  lhs = std::move(statusor).value()

#endif  // FLEXQUANT_COMMON_STATUS_MACROS_H_
