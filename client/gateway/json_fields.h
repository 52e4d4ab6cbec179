#ifndef FLEXQUANT_CLIENT_GATEWAY_JSON_FIELDS_H_
#define FLEXQUANT_CLIENT_GATEWAY_JSON_FIELDS_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace flexquant::gateway {

using Json = nlohmann::json;

// Fields of one JSON object, asked for by name. The first fault is kept; later questions answer as if the field were
// absent. A field that is null counts as absent. Not thread-safe.
class JsonFields {
 public:
  // `path` names the object in errors, with its dot; empty for the body. `object` must outlive this.
  JsonFields(const Json& object, std::string path);

  // Null if it is absent.
  const Json* Find(const char* name);
  // False if it is absent or of another type, which is a fault.
  bool Get(const char* name, bool* value);
  bool Get(const char* name, double* value);
  bool Get(const char* name, uint32_t* value);
  bool Get(const char* name, std::string* value);
  // The field is known and changes nothing.
  void Ignore(const char* name) { Find(name); }

  void Fail(absl::string_view name, absl::string_view problem);
  // What was refused first; a field that nobody asked for is refused too.
  absl::Status Finish();
  const absl::Status& status() const { return status_; }
  std::string PathOf(absl::string_view name) const { return path_ + std::string(name); }

 private:
  void WrongType(const char* name, const Json& value, const char* wanted);

  const Json& object_;
  const std::string path_;
  std::set<std::string> asked_;
  absl::Status status_;
};

// The value in at most 40 bytes, for errors.
std::string JsonExcerpt(const Json& value);

}  // namespace flexquant::gateway

#endif  // FLEXQUANT_CLIENT_GATEWAY_JSON_FIELDS_H_
