#include "client/cli/machine.h"

#include <sys/utsname.h>
#include <unistd.h>

#include <fstream>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/cli/terminal.h"

namespace flexquant::cli {
namespace {

std::string ProcessorName() {
  // Not ReadFile: files of /proc have size 0.
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (absl::StartsWith(line, "model name")) {
      return std::string(absl::StripAsciiWhitespace(line.substr(line.find(':') + 1)));
    }
  }
  return "unknown processor";
}

}  // namespace

std::string MachineLine() {
  utsname name = {};
  uname(&name);
  const double memory = static_cast<double>(sysconf(_SC_PHYS_PAGES)) * static_cast<double>(sysconf(_SC_PAGESIZE));
  return absl::StrCat(ProcessorName(), ", ", sysconf(_SC_NPROCESSORS_ONLN), " logical processors, ", HumanBytes(memory),
                      ", ", name.sysname, " ", name.release, " ", name.machine);
}

}  // namespace flexquant::cli
