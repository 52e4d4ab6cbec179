#ifndef FLEXQUANT_COMMON_CHECK_H_
#define FLEXQUANT_COMMON_CHECK_H_

#include <cstdio>
#include <cstdlib>

// Ends the process when an invariant of ours is broken. Never for input, files or network: those get an absl::Status.
#define FQ_CHECK(condition)                                                                  \
  do {                                                                                       \
    if (!(condition)) {                                                                      \
      std::fprintf(stderr, "%s:%d: broken invariant: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                          \
    }                                                                                        \
  } while (false)

#endif  // FLEXQUANT_COMMON_CHECK_H_
