#ifndef FLEXQUANT_CLIENT_CLI_MODEL_SHAPES_H_
#define FLEXQUANT_CLIENT_CLI_MODEL_SHAPES_H_

#include <map>
#include <string>
#include <vector>

#include "common/model_config.h"

namespace flexquant::cli {

// Shapes of models, from their config.json, for benchmarks without the models.
const std::map<std::string, ModelConfig>& ModelShapes();
std::vector<std::string> ModelShapeNames();

}  // namespace flexquant::cli

#endif  // FLEXQUANT_CLIENT_CLI_MODEL_SHAPES_H_
