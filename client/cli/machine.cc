#include "client/cli/machine.h"

#include <sys/utsname.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "client/cli/terminal.h"
#include "common/mapped_file.h"

namespace flexquant::cli {
namespace {

std::string ProcessorName() {
  const auto text = ReadFile("/proc/cpuinfo");
  if (text.ok()) {
    for (absl::string_view line : absl::StrSplit(*text, '\n')) {
      if (absl::StartsWith(line, "model name")) {
        return std::string(absl::StripAsciiWhitespace(line.substr(line.find(':') + 1)));
      }
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
