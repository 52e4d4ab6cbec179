#include "controller/inference_service.h"

#include <string>
#include <type_traits>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "common/status_macros.h"
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

// What `work` returns, unless the caller is unknown or has had enough.
template <typename Work>
std::invoke_result_t<Work> Counted(const grpc::CallbackServerContext& context, AccessControl& access,
                                   const Work& work) {
  FQ_ASSIGN_OR_RETURN(const auto tenant, access.Identify(AuthorizationOf(context)));
  FQ_RETURN_IF_ERROR(access.limits().CountRequest(*tenant, absl::Now()));
  return work();
}

}  // namespace

grpc::ServerUnaryReactor* InferenceService::Generate(grpc::CallbackServerContext* context,
                                                     const v1::GenerateRequest* request,
                                                     v1::GenerateResponse* response) {
  return UnaryCall::Start(*request, *context, {model_, scheduler_, access_, metrics_}, response);
}

grpc::ServerWriteReactor<v1::GenerateStreamResponse>* InferenceService::GenerateStream(
    grpc::CallbackServerContext* context, const v1::GenerateStreamRequest* request) {
  return StreamCall::Start(request->request(), *context, {model_, scheduler_, access_, metrics_});
}

grpc::ServerUnaryReactor* InferenceService::Abort(grpc::CallbackServerContext* context, const v1::AbortRequest* request,
                                                  v1::AbortResponse* /*response*/) {
  const auto end_request = [&]() -> absl::Status {
    // Not counted: it saves work.
    FQ_ASSIGN_OR_RETURN(const auto tenant, access_.Identify(AuthorizationOf(*context)));
    FQ_RETURN_IF_ERROR(ValidateAbort(*request));
    return scheduler_.Abort(tenant->name, request->request_id());
  };
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpcStatus(end_request()));
  return reactor;
}

grpc::ServerUnaryReactor* InferenceService::Tokenize(grpc::CallbackServerContext* context,
                                                     const v1::TokenizeRequest* request,
                                                     v1::TokenizeResponse* response) {
  return Reply(context, Counted(*context, access_, [&] { return controller::Tokenize(*request, model_); }),
               [&](const std::vector<uint32_t>& ids) { response->mutable_token_ids()->Add(ids.begin(), ids.end()); });
}

grpc::ServerUnaryReactor* InferenceService::Detokenize(grpc::CallbackServerContext* context,
                                                       const v1::DetokenizeRequest* request,
                                                       v1::DetokenizeResponse* response) {
  return Reply(context, Counted(*context, access_, [&] { return controller::Detokenize(*request, model_); }),
               [&](const std::string& text) { response->set_text(text); });
}

}  // namespace flexquant::controller
