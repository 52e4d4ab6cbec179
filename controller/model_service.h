#ifndef FLEXQUANT_CONTROLLER_MODEL_SERVICE_H_
#define FLEXQUANT_CONTROLLER_MODEL_SERVICE_H_

#include <string>

#include "controller/model_package.h"
#include "controller/scheduler.h"
#include "flexquant/v1/model.grpc.pb.h"

namespace flexquant::controller {

// flexquant.v1.ModelService. Thread-safe.
class ModelService final : public v1::ModelService::CallbackService {
 public:
  // `model` and `scheduler` must outlive this. `instance_id`: of this controller process.
  ModelService(const ModelPackage& model, const Scheduler& scheduler, std::string instance_id);

  grpc::ServerUnaryReactor* GetServerInfo(grpc::CallbackServerContext* context, const v1::GetServerInfoRequest* request,
                                          v1::GetServerInfoResponse* response) override;

 private:
  const ModelPackage& model_;
  const Scheduler& scheduler_;
  v1::ServerInfo fixed_;  // what does not depend on the executors
};

}  // namespace flexquant::controller

#endif  // FLEXQUANT_CONTROLLER_MODEL_SERVICE_H_
