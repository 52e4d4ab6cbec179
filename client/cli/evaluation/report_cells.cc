#include "client/cli/evaluation/report_cells.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace flexquant::cli {
namespace {

std::string Write(const Json& number, const NumberFormat& format, const char* none) {
  if (!number.is_number()) {
    return none;
  }
  const double value = format.factor * number.get<double>();
  return format.fixed ? absl::StrFormat("%.*f", format.digits, value) : absl::StrFormat("%.*g", format.digits, value);
}

}  // namespace

std::string NumberCell(const Json& value, const NumberFormat& format) { return Write(value, format, "-"); }

std::string IntervalCell(const Json& figure, const NumberFormat& format, const std::string& between) {
  if (!figure.is_object() || !figure["value"].is_number()) {
    return "-";
  }
  return absl::StrCat(Write(figure["value"], format, "-"), " (", Write(figure["low"], format, "?"), between,
                      Write(figure["high"], format, "?"), ")");
}

}  // namespace flexquant::cli
