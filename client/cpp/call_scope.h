#ifndef FLEXQUANT_CLIENT_CPP_CALL_SCOPE_H_
#define FLEXQUANT_CLIENT_CPP_CALL_SCOPE_H_

#include "client/cpp/client.h"
#include "grpcpp/client_context.h"

namespace flexquant::client {

// One call's context, with the deadline and cancel token of its options and the caller's authorization (empty = none),
// from construction to destruction.
class CallScope {
 public:
  explicit CallScope(const CallOptions& options, const std::string& authorization = {});
  ~CallScope();
  CallScope(const CallScope&) = delete;
  CallScope& operator=(const CallScope&) = delete;

  grpc::ClientContext* context() { return &context_; }

 private:
  grpc::ClientContext context_;
  CancelToken* cancel_;
};

}  // namespace flexquant::client

#endif  // FLEXQUANT_CLIENT_CPP_CALL_SCOPE_H_
