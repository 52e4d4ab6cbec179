#ifndef FLEXQUANT_CLIENT_CLI_CONVERT_FITTED_H_
#define FLEXQUANT_CLIENT_CLI_CONVERT_FITTED_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "common/store/convert.h"

namespace flexquant::cli {

// A text that weights are fitted to.
struct FitFlags {
  std::string text;
  int64_t tokens = 2048;  // rounded up to whole windows
};

// Convert, with the weights fitted to what the unquantised model computes on a text: channels are scaled
// (FindChannelScales) and errors weighted by their inputs. The unquantised weights stand in a folder beside
// `destination` for that long. Shows its own progress for what comes before Convert. INVALID_ARGUMENT if the text is
// too short or not UTF-8, NOT_FOUND; errors of Convert.
absl::StatusOr<ConvertReport> ConvertFitted(ModelSource& source, const std::string& destination,
                                            const ConvertOptions& options, const FitFlags& fit);

}  // namespace flexquant::cli

#endif  // FLEXQUANT_CLIENT_CLI_CONVERT_FITTED_H_
