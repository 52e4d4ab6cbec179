#ifndef FLEXQUANT_CLIENT_GATEWAY_SERVER_JSON_H_
#define FLEXQUANT_CLIENT_GATEWAY_SERVER_JSON_H_

#include <cstdint>
#include <string>

#include "flexquant/v1/model.pb.h"

namespace flexquant::gateway {

// Body of /v1/models/ID; `created` in s since 1970.
std::string ModelJson(const v1::ServerInfo& info, int64_t created);
// Body of /v1/models.
std::string ModelListJson(const v1::ServerInfo& info, int64_t created);
// Body of /v1/flexquant/server.
std::string ServerJson(const v1::ServerInfo& info);

}  // namespace flexquant::gateway

#endif  // FLEXQUANT_CLIENT_GATEWAY_SERVER_JSON_H_
