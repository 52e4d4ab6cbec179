#ifndef FLEXQUANT_CLIENT_CLI_MACHINE_H_
#define FLEXQUANT_CLIENT_CLI_MACHINE_H_

#include <string>

namespace flexquant::cli {

// One line on the machine: processor, logical processors, memory, kernel.
std::string MachineLine();

}  // namespace flexquant::cli

#endif  // FLEXQUANT_CLIENT_CLI_MACHINE_H_
