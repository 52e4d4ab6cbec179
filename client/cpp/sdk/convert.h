#ifndef FLEXQUANT_CLIENT_CPP_SDK_CONVERT_H_
#define FLEXQUANT_CLIENT_CPP_SDK_CONVERT_H_

// Between the SDK's values and messages of flexquant.v1.

#include "absl/status/status.h"
#include "client/cpp/include/flexquant/client.h"
#include "flexquant/v1/inference.pb.h"
#include "flexquant/v1/model.pb.h"

namespace flexquant::sdk {

Status FromAbsl(const absl::Status& status);

void FillChat(const Chat& chat, v1::ChatPrompt& message);
v1::GenerateRequest ToProto(const GenerateRequest& request);

Event FromProto(const v1::GenerateStreamResponse& event);
ServerInfo FromProto(const v1::ServerInfo& info);

}  // namespace flexquant::sdk

#endif  // FLEXQUANT_CLIENT_CPP_SDK_CONVERT_H_
