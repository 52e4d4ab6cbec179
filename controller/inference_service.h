#ifndef FLEXQUANT_CONTROLLER_INFERENCE_SERVICE_H_
#define FLEXQUANT_CONTROLLER_INFERENCE_SERVICE_H_

#include "controller/access_control.h"
#include "controller/model_package.h"
#include "controller/scheduler.h"
#include "flexquant/v1/inference.grpc.pb.h"

namespace flexquant::controller {

// flexquant.v1.InferenceService: knows whose call it is, validates, submits, and turns answers into messages.
// Thread-safe.
class InferenceService final : public v1::InferenceService::CallbackService {
 public:
  // All must outlive this.
  InferenceService(const ModelPackage& model, Scheduler& scheduler, AccessControl& access, Metrics& metrics)
      : model_(model), scheduler_(scheduler), access_(access), metrics_(metrics) {}

  grpc::ServerUnaryReactor* Generate(grpc::CallbackServerContext* context, const v1::GenerateRequest* request,
                                     v1::GenerateResponse* response) override;
  grpc::ServerWriteReactor<v1::GenerateStreamResponse>* GenerateStream(
      grpc::CallbackServerContext* context, const v1::GenerateStreamRequest* request) override;
  grpc::ServerUnaryReactor* Abort(grpc::CallbackServerContext* context, const v1::AbortRequest* request,
                                  v1::AbortResponse* response) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context, const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context, const v1::DetokenizeRequest* request,
                                       v1::DetokenizeResponse* response) override;

 private:
  const ModelPackage& model_;
  Scheduler& scheduler_;
  AccessControl& access_;
  Metrics& metrics_;
};

}  // namespace flexquant::controller

#endif  // FLEXQUANT_CONTROLLER_INFERENCE_SERVICE_H_
