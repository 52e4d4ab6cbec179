#include "common/json_fields.h"

#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"

namespace flexquant {
namespace {

using Json = nlohmann::ordered_json;

bool IsNumber(const Json& value, double max) {
  return value.is_number() && std::isfinite(value.get<double>()) && value.get<double>() >= 0 &&
         value.get<double>() <= max;
}

}  // namespace

JsonFields::JsonFields(const Json& object, std::string path, std::string where, std::string remedy)
    : object_(&object), path_(std::move(path)), where_(std::move(where)), remedy_(std::move(remedy)) {}

absl::Status JsonFields::Error(const std::string& field, const std::string& problem) const {
  return absl::InvalidArgumentError(absl::StrCat(path_, ": field \"", where_, field, "\" ", problem, "; ", remedy_));
}

const Json* JsonFields::Find(const std::string& field) const {
  const auto it = object_->find(field);
  return it == object_->end() ? nullptr : &*it;
}

absl::StatusOr<bool> JsonFields::Bool(const std::string& field) const {
  const Json* value = Find(field);
  if (value == nullptr || !value->is_boolean()) {
    return Error(field, "is missing or not true or false");
  }
  return value->get<bool>();
}

absl::StatusOr<int64_t> JsonFields::Integer(const std::string& field) const {
  const Json* value = Find(field);
  if (value == nullptr || !value->is_number_integer()) {
    return Error(field, "is missing or not an integer");
  }
  return value->get<int64_t>();
}

absl::StatusOr<uint64_t> JsonFields::Count(const std::string& field) const {
  const Json* value = Find(field);
  if (value == nullptr || !value->is_number_unsigned()) {
    return Error(field, "is missing or not a whole number >= 0");
  }
  return value->get<uint64_t>();
}

absl::StatusOr<std::string> JsonFields::String(const std::string& field) const {
  const Json* value = Find(field);
  if (value == nullptr || !value->is_string()) {
    return Error(field, "is missing or not a string");
  }
  return value->get<std::string>();
}

absl::StatusOr<double> JsonFields::Number(const std::string& field, double max) const {
  const Json* value = Find(field);
  if (value == nullptr || !IsNumber(*value, max)) {
    return Error(field, std::isfinite(max) ? absl::StrCat("is missing or not a number from 0 to ", max)
                                           : "is missing or not a number >= 0");
  }
  return value->get<double>();
}

template <class T>
absl::StatusOr<std::vector<T>> JsonFields::List(const std::string& field, size_t size, const std::string& what,
                                                absl::FunctionRef<bool(const Json&)> allowed,
                                                const std::string& expected) const {
  const Json* value = Find(field);
  if (value == nullptr || !value->is_array() || value->size() != size) {
    return Error(field, absl::StrCat("is missing or not a list of ", size, " ", what));
  }
  std::vector<T> values;
  for (const Json& element : *value) {
    if (!allowed(element)) {
      return Error(absl::StrCat(field, "[", values.size(), "]"), absl::StrCat("is not a ", expected));
    }
    values.push_back(element.get<T>());
  }
  return values;
}

absl::StatusOr<std::vector<double>> JsonFields::Numbers(const std::string& field, size_t size) const {
  const auto allowed = [](const Json& value) { return IsNumber(value, std::numeric_limits<double>::max()); };
  return List<double>(field, size, "numbers", allowed, "number >= 0");
}

absl::StatusOr<std::vector<double>> JsonFields::SignedNumbers(const std::string& field, size_t size, double max) const {
  const auto allowed = [max](const Json& value) { return value.is_number() && std::abs(value.get<double>()) <= max; };
  return List<double>(field, size, "numbers", allowed, absl::StrCat("number from ", -max, " to ", max));
}

absl::StatusOr<std::vector<uint64_t>> JsonFields::Counts(const std::string& field, size_t size) const {
  const auto allowed = [](const Json& value) { return value.is_number_unsigned(); };
  return List<uint64_t>(field, size, "whole numbers", allowed, "whole number >= 0");
}

absl::StatusOr<JsonFields> JsonFields::Object(const std::string& field) const {
  const Json* value = Find(field);
  if (value == nullptr || !value->is_object()) {
    return Error(field, "is missing or not an object");
  }
  return JsonFields(*value, path_, absl::StrCat(where_, field, "."), remedy_);
}

absl::StatusOr<std::vector<JsonFields>> JsonFields::Objects(const std::string& field) const {
  const Json* value = Find(field);
  if (value == nullptr || !value->is_array()) {
    return Error(field, "is missing or not a list");
  }
  std::vector<JsonFields> objects;
  for (const Json& element : *value) {
    const std::string name = absl::StrCat(field, "[", objects.size(), "]");
    if (!element.is_object()) {
      return Error(name, "is not an object");
    }
    objects.emplace_back(element, path_, absl::StrCat(where_, name, "."), remedy_);
  }
  return objects;
}

}  // namespace flexquant
