#ifndef FLEXQUANT_TOOLS_SIMULATE_MEASURE_H_
#define FLEXQUANT_TOOLS_SIMULATE_MEASURE_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "controller/model_package.h"
#include "tools/simulate/cost_model.h"

namespace flexquant::simulate {

// Times of steps on the executor at `address`, which must have no controller: batches of several widths at several
// precisions, with prompts of several lengths. Errors as ExecutorClient::Connect; UNAVAILABLE if the stream breaks.
absl::StatusOr<std::vector<MeasuredStep>> MeasureExecutor(const controller::ModelPackage& model,
                                                          const std::string& address);

}  // namespace flexquant::simulate

#endif  // FLEXQUANT_TOOLS_SIMULATE_MEASURE_H_
