#ifndef FLEXQUANT_COMMON_CALIBRATION_REQUIREMENT_JSON_H_
#define FLEXQUANT_COMMON_CALIBRATION_REQUIREMENT_JSON_H_

#include <cstddef>
#include <nlohmann/json.hpp>

#include "absl/status/statusor.h"
#include "common/calibration/precision_requirement.h"
#include "common/json_fields.h"

namespace flexquant {

// The object of one lookahead in the calibration's file.
nlohmann::ordered_json RequirementJson(const PrecisionRequirement& requirement, int lookahead);

// INVALID_ARGUMENT names the field: wrong types, numbers out of range, points out of order, another lookahead, another
// number of rungs than a ladder of `num_rungs` needs.
absl::StatusOr<PrecisionRequirement> ReadRequirement(const JsonFields& fields, int lookahead, size_t num_rungs);

}  // namespace flexquant

#endif  // FLEXQUANT_COMMON_CALIBRATION_REQUIREMENT_JSON_H_
