#ifndef FLEXQUANT_COMMON_JSON_FIELDS_H_
#define FLEXQUANT_COMMON_JSON_FIELDS_H_

#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"

namespace flexquant {

// Typed access to an object's fields that never throws. Errors are INVALID_ARGUMENT: "PATH: field "NAME" is ...;
// REMEDY". The object must outlive this.
class JsonFields {
 public:
  // `where` names the object within the file: "calibration.ladder[3]."
  JsonFields(const nlohmann::ordered_json& object, std::string path, std::string where, std::string remedy);

  absl::Status Error(const std::string& field, const std::string& problem) const;
  bool Has(const std::string& field) const { return Find(field) != nullptr; }

  absl::StatusOr<bool> Bool(const std::string& field) const;
  absl::StatusOr<int64_t> Integer(const std::string& field) const;
  // A whole number >= 0.
  absl::StatusOr<uint64_t> Count(const std::string& field) const;
  absl::StatusOr<std::string> String(const std::string& field) const;
  // Finite and in [0, max].
  absl::StatusOr<double> Number(const std::string& field, double max) const;
  // `size` of them, each finite and >= 0.
  absl::StatusOr<std::vector<double>> Numbers(const std::string& field, size_t size) const;
  // `size` of them, each in [-max, max].
  absl::StatusOr<std::vector<double>> SignedNumbers(const std::string& field, size_t size, double max) const;
  absl::StatusOr<std::vector<uint64_t>> Counts(const std::string& field, size_t size) const;
  // An object, to be read by fields of its own.
  absl::StatusOr<JsonFields> Object(const std::string& field) const;
  // An array of objects, each to be read by fields of its own.
  absl::StatusOr<std::vector<JsonFields>> Objects(const std::string& field) const;

 private:
  const nlohmann::ordered_json* Find(const std::string& field) const;
  // An array of `size` `what`, each of which is `allowed`, that is, an `expected`.
  template <class T>
  absl::StatusOr<std::vector<T>> List(const std::string& field, size_t size, const std::string& what,
                                      absl::FunctionRef<bool(const nlohmann::ordered_json&)> allowed,
                                      const std::string& expected) const;

  const nlohmann::ordered_json* object_;
  std::string path_;
  std::string where_;
  std::string remedy_;
};

}  // namespace flexquant

#endif  // FLEXQUANT_COMMON_JSON_FIELDS_H_
