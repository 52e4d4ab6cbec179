#ifndef FLEXQUANT_CLIENT_GATEWAY_REPLIES_H_
#define FLEXQUANT_CLIENT_GATEWAY_REPLIES_H_

#include <httplib.h>

#include <string>

#include "absl/status/status.h"

namespace flexquant::gateway {

inline constexpr char kJson[] = "application/json";

// The error that a status means (openai_error.h), with the headers that go with it.
void SetError(const absl::Status& status, httplib::Response& res);

// An error that HTTP itself is to blame for. `code`: for programs; empty = none.
void SetHttpError(int http_status, const std::string& message, const char* code, httplib::Response& res);

// The page or a file of it; false if there is no such file.
bool SetPage(const httplib::Request& req, httplib::Response& res);

}  // namespace flexquant::gateway

#endif  // FLEXQUANT_CLIENT_GATEWAY_REPLIES_H_
