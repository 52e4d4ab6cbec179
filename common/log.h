#ifndef FLEXQUANT_COMMON_LOG_H_
#define FLEXQUANT_COMMON_LOG_H_

#include <string>

namespace flexquant {

// Logs go to standard error from here on, in the name of `program`; may be called again with the same name. `level` as
// spdlog names it. As JSON each line is an object with time (RFC 3339), level, logger and message.
void ConfigureLog(const std::string& program, const std::string& level, bool json);

}  // namespace flexquant

#endif  // FLEXQUANT_COMMON_LOG_H_
