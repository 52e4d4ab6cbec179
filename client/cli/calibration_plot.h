#ifndef FLEXQUANT_CLIENT_CLI_CALIBRATION_PLOT_H_
#define FLEXQUANT_CLIENT_CLI_CALIBRATION_PLOT_H_

#include <string>

#include "common/calibration/calibration.h"

namespace flexquant::cli {

// One SVG image without outside resources, legible on dark and light ground: KL by block, a line a kind of layer group
// in a panel for each precision, and the ladder's measured KL against the bytes of a token.
std::string CalibrationSvg(const Calibration& calibration, const std::string& title);

}  // namespace flexquant::cli

#endif  // FLEXQUANT_CLIENT_CLI_CALIBRATION_PLOT_H_
