#include "controller/inference_service.h"

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "controller/generation_call.h"
#include "controller/request_validation.h"
#include "proto/grpc_status.h"

namespace flexquant::controller {
namespace {

template <typename Result, typename Fill>
grpc::ServerUnaryReactor* Reply(grpc::CallbackServerContext* context, const absl::StatusOr<Result>& result,
                                const Fill& fill) {
  if (result.ok()) {
    fill(*result);
  }
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpcStatus(result.status()));
  return reactor;
}

}  // namespace

grpc::ServerUnaryReactor* InferenceService::Generate(grpc::CallbackServerContext* context,
                                                     const v1::GenerateRequest* request,
                                                     v1::GenerateResponse* response) {
  return UnaryCall::Start(*request, *context, model_, scheduler_, response);
}

grpc::ServerWriteReactor<v1::GenerateStreamResponse>* InferenceService::GenerateStream(
    grpc::CallbackServerContext* context, const v1::GenerateStreamRequest* request) {
  return StreamCall::Start(request->request(), *context, model_, scheduler_);
}

grpc::ServerUnaryReactor* InferenceService::Abort(grpc::CallbackServerContext* context,
                                                  const v1::AbortRequest* request, v1::AbortResponse* /*response*/) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpcStatus(request->request_id().empty()
                                   ? FieldViolation("request_id", "empty; name the request to end")
                                   : scheduler_.Abort(/*tenant=*/"", request->request_id())));
  return reactor;
}

grpc::ServerUnaryReactor* InferenceService::Tokenize(grpc::CallbackServerContext* context,
                                                     const v1::TokenizeRequest* request,
                                                     v1::TokenizeResponse* response) {
  return Reply(context, controller::Tokenize(*request, model_),
               [&](const std::vector<uint32_t>& ids) { response->mutable_token_ids()->Add(ids.begin(), ids.end()); });
}

grpc::ServerUnaryReactor* InferenceService::Detokenize(grpc::CallbackServerContext* context,
                                                       const v1::DetokenizeRequest* request,
                                                       v1::DetokenizeResponse* response) {
  return Reply(context, controller::Detokenize(*request, model_),
               [&](const std::string& text) { response->set_text(text); });
}

}  // namespace flexquant::controller
