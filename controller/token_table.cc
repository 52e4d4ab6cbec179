#include "controller/token_table.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <unordered_map>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/json_fields.h"
#include "common/status_macros.h"
#include "controller/generation.h"

namespace flexquant::controller {
namespace {

using Json = nlohmann::ordered_json;

constexpr char kRemedy[] = "docs/security.md describes the file; `flexquant token new` prints an entry";
constexpr size_t kMaxTenantBytes = 64;
constexpr char kPriorityField[] = "priority_max";

struct QuotaField {
  const char* name;
  std::optional<uint64_t> TenantQuota::*value;
};
constexpr QuotaField kQuotaFields[] = {
    {"max_concurrent_requests", &TenantQuota::max_concurrent_requests},
    {"max_queued_requests", &TenantQuota::max_queued_requests},
    {"max_tokens_per_request", &TenantQuota::max_tokens_per_request},
    {"requests_per_minute", &TenantQuota::requests_per_minute},
    {"tokens_per_minute", &TenantQuota::tokens_per_minute},
};

// A misspelt limit must not mean that there is none.
absl::Status CheckKeys(const Json& object, const JsonFields& fields) {
  for (const auto& [key, value] : object.items()) {
    const bool known = key == "tenant" || key == "sha256" || key == "expires" || key == kPriorityField ||
                       std::any_of(std::begin(kQuotaFields), std::end(kQuotaFields),
                                   [&key = key](const QuotaField& field) { return key == field.name; });
    if (!known) {
      return fields.Error(key, "not a field of a token");
    }
  }
  return absl::OkStatus();
}

// Names go into logs and errors.
bool IsTenantName(const std::string& name) {
  return !name.empty() && name.size() <= kMaxTenantBytes && std::all_of(name.begin(), name.end(), [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_' || c == '.' || c == '@';
  });
}

absl::StatusOr<Tenant> ParseTenant(const Json& object, const JsonFields& fields) {
  Tenant tenant;
  FQ_ASSIGN_OR_RETURN(tenant.name, fields.String("tenant"));
  if (!IsTenantName(tenant.name)) {
    return fields.Error("tenant", absl::StrCat("not 1 to ", kMaxTenantBytes, " letters, digits and -_.@"));
  }
  for (const QuotaField& field : kQuotaFields) {
    if (object.contains(field.name)) {
      FQ_ASSIGN_OR_RETURN(const uint64_t value, fields.Count(field.name));
      if (value == 0) {
        return fields.Error(field.name, "0; give at least 1, or leave it out for no limit");
      }
      tenant.quota.*field.value = value;
    }
  }
  if (object.contains(kPriorityField)) {
    FQ_ASSIGN_OR_RETURN(const int64_t priority, fields.Integer(kPriorityField));
    if (priority < -kMaxPriority || priority > kMaxPriority) {
      return fields.Error(kPriorityField, absl::StrCat("outside [-", kMaxPriority, ", ", kMaxPriority, "]"));
    }
    tenant.quota.priority_max = static_cast<int>(priority);
  }
  return tenant;
}

absl::StatusOr<absl::Time> ParseExpiry(const Json& object, const JsonFields& fields) {
  if (!object.contains("expires")) {
    return absl::InfiniteFuture();
  }
  FQ_ASSIGN_OR_RETURN(const std::string text, fields.String("expires"));
  absl::Time time;
  std::string problem;
  if (!absl::ParseTime(absl::RFC3339_full, text, &time, &problem)) {
    return fields.Error("expires", "not a time such as 2030-01-31T12:00:00Z");
  }
  return time;
}

}  // namespace

absl::StatusOr<TokenTable> TokenTable::Parse(absl::string_view text, const std::string& path) {
  const Json json = Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (!json.is_array()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": not a JSON list of tokens; ", kRemedy));
  }
  TokenTable table;
  std::unordered_map<std::string, std::shared_ptr<const Tenant>> tenants;
  for (size_t i = 0; i < json.size(); ++i) {
    const JsonFields fields(json[i], path, absl::StrCat("[", i, "]."), kRemedy);
    if (!json[i].is_object()) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": entry ", i, " is not an object; ", kRemedy));
    }
    FQ_RETURN_IF_ERROR(CheckKeys(json[i], fields));
    FQ_ASSIGN_OR_RETURN(Tenant tenant, ParseTenant(json[i], fields));
    FQ_ASSIGN_OR_RETURN(const std::string hex, fields.String("sha256"));
    const absl::StatusOr<transport::Sha256Digest> digest = transport::DigestFromHex(hex);
    if (!digest.ok()) {
      return fields.Error("sha256", std::string(digest.status().message()));
    }
    FQ_ASSIGN_OR_RETURN(const absl::Time expires, ParseExpiry(json[i], fields));
    // Tokens of one tenant share its limits, so that a second one for a rotation does not double them.
    auto& shared = tenants[tenant.name];
    if (shared == nullptr) {
      shared = std::make_shared<const Tenant>(std::move(tenant));
    } else if (!(shared->quota == tenant.quota)) {
      return fields.Error(
          "tenant",
          absl::StrCat("'", tenant.name, "' again with other limits; give all tokens of a tenant the same ones"));
    }
    for (const Entry& entry : table.entries_) {
      if (entry.digest == *digest) {
        return fields.Error("sha256", "the same as in an earlier entry");
      }
    }
    table.entries_.push_back({*digest, shared, expires});
  }
  return table;
}

absl::StatusOr<std::shared_ptr<const Tenant>> TokenTable::Find(absl::string_view token, absl::Time now) const {
  const transport::Sha256Digest digest = transport::Sha256(token);
  const Entry* found = nullptr;
  for (const Entry& entry : entries_) {
    if (transport::SameDigest(entry.digest, digest)) {
      found = &entry;
    }
  }
  if (found == nullptr) {
    return absl::UnauthenticatedError("the token is not one of this server's; ask its operator for another");
  }
  if (now >= found->expires) {
    return absl::UnauthenticatedError(absl::StrCat("the token of tenant '", found->tenant->name, "' expired on ",
                                                   absl::FormatTime(found->expires, absl::UTCTimeZone()),
                                                   "; ask the server's operator for another"));
  }
  return found->tenant;
}

}  // namespace flexquant::controller
