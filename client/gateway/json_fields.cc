#include "client/gateway/json_fields.h"

#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/gateway/openai_error.h"
#include "proto/grpc_status.h"

namespace flexquant::gateway {

std::string JsonExcerpt(const Json& value) {
  constexpr size_t kMaxBytes = 40;
  return Shortened(value.dump(-1, ' ', false, Json::error_handler_t::replace), kMaxBytes);
}

JsonFields::JsonFields(const Json& object, std::string path) : object_(object), path_(std::move(path)) {
  if (!object_.is_object()) {
    const std::string name = path_.empty() ? "body" : path_.substr(0, path_.size() - 1);
    status_ = BadParameter(name, absl::StrCat(JsonExcerpt(object_), " is not a JSON object"));
  }
}

const Json* JsonFields::Find(const char* name) {
  asked_.insert(name);
  if (!object_.is_object()) {
    return nullptr;
  }
  const auto found = object_.find(name);
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

void JsonFields::Fail(absl::string_view name, absl::string_view problem) {
  if (status_.ok()) {
    status_ = BadParameter(PathOf(name), problem);
  }
}

void JsonFields::WrongType(const char* name, const Json& value, const char* wanted) {
  Fail(name, absl::StrCat(JsonExcerpt(value), " is not ", wanted));
}

bool JsonFields::Get(const char* name, bool* value) {
  const Json* found = Find(name);
  if (found == nullptr || !found->is_boolean()) {
    if (found != nullptr) {
      WrongType(name, *found, "true or false");
    }
    return false;
  }
  *value = found->get<bool>();
  return true;
}

bool JsonFields::Get(const char* name, double* value) {
  const Json* found = Find(name);
  if (found == nullptr || !found->is_number()) {
    if (found != nullptr) {
      WrongType(name, *found, "a number");
    }
    return false;
  }
  *value = found->get<double>();
  return true;
}

bool JsonFields::Get(const char* name, uint32_t* value) {
  const Json* found = Find(name);
  if (found == nullptr || !found->is_number_unsigned() ||
      found->get<uint64_t>() > std::numeric_limits<uint32_t>::max()) {
    if (found != nullptr) {
      WrongType(name, *found, "a whole number from 0 to 4294967295");
    }
    return false;
  }
  *value = found->get<uint32_t>();
  return true;
}

bool JsonFields::Get(const char* name, std::string* value) {
  const Json* found = Find(name);
  if (found == nullptr || !found->is_string()) {
    if (found != nullptr) {
      WrongType(name, *found, "a string");
    }
    return false;
  }
  *value = found->get<std::string>();
  return true;
}

absl::Status JsonFields::Finish() {
  if (status_.ok()) {
    for (const auto& [name, value] : object_.items()) {
      if (!value.is_null() && asked_.count(name) == 0) {
        Fail(Shortened(name, 64), "this field is not known here; leave it out");
        break;
      }
    }
  }
  return status_;
}

}  // namespace flexquant::gateway
