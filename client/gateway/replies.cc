#include "client/gateway/replies.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "absl/time/time.h"
#include "client/gateway/openai_error.h"
#include "client/gateway/page_files.h"

namespace flexquant::gateway {
namespace {

constexpr char kAssets[] = "/assets/";
constexpr char kContentSecurityPolicy[] =
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'";

const char* ContentTypeOf(absl::string_view name) {
  constexpr std::array<std::pair<const char*, const char*>, 4> kTypes = {{{".html", "text/html; charset=utf-8"},
                                                                          {".js", "text/javascript; charset=utf-8"},
                                                                          {".css", "text/css; charset=utf-8"},
                                                                          {".svg", "image/svg+xml"}}};
  for (const auto& [ending, type] : kTypes) {
    if (absl::EndsWith(name, ending)) {
      return type;
    }
  }
  return "application/octet-stream";
}

}  // namespace

void SetError(const absl::Status& status, httplib::Response& res) {
  const OpenAiError error = ErrorOf(status);
  res.status = error.http_status;
  if (error.retry_after.has_value()) {
    const int64_t seconds = absl::ToInt64Seconds(absl::Ceil(*error.retry_after, absl::Seconds(1)));
    res.set_header("Retry-After", absl::StrCat(std::max<int64_t>(1, seconds)));
  }
  if (error.http_status >= 429) {
    res.set_header("x-should-retry", error.retry ? "true" : "false");  // OpenAI's clients heed it
  }
  if (error.http_status == 401) {
    res.set_header("WWW-Authenticate", "Bearer");
  }
  res.set_content(error.Body(), kJson);
}

void SetHttpError(int http_status, const std::string& message, const char* code, httplib::Response& res) {
  OpenAiError error;
  error.http_status = http_status;
  error.message = message;
  error.type = http_status < 500 ? "invalid_request_error" : "server_error";
  error.code = code;
  res.status = http_status;
  res.set_content(error.Body(), kJson);
}

bool SetPage(const httplib::Request& req, httplib::Response& res) {
  if (req.path != "/" && !absl::StartsWith(req.path, kAssets)) {
    return false;
  }
  const absl::string_view name = req.path == "/" ? "index.html" : absl::StripPrefix(req.path, kAssets);
  for (const PageFile& file : PageFiles()) {
    if (file.name != name) {
      continue;
    }
    res.set_header("ETag", std::string(file.etag));
    res.set_header("Cache-Control", "no-cache");  // asked for again, answered 304 while it is the same
    res.set_header("Content-Security-Policy", kContentSecurityPolicy);
    res.set_header("X-Content-Type-Options", "nosniff");
    res.set_header("Referrer-Policy", "no-referrer");
    if (absl::StrContains(req.get_header_value("If-None-Match"), file.etag)) {
      res.status = 304;
    } else {
      res.set_content(file.contents.data(), file.contents.size(), ContentTypeOf(file.name));
    }
    return true;
  }
  return false;
}

}  // namespace flexquant::gateway
