#ifndef FLEXQUANT_CONTROLLER_ANSWER_PROTO_H_
#define FLEXQUANT_CONTROLLER_ANSWER_PROTO_H_

// Answers in the public protocol's messages.

#include "controller/generation.h"
#include "flexquant/v1/inference.pb.h"

namespace flexquant::controller {

v1::TokenInfo ToProto(const AnswerToken& token);
v1::PrecisionReport ToProto(const PrecisionUse& use);
v1::GenerationFinished ToProto(const AnswerEnd& end);

}  // namespace flexquant::controller

#endif  // FLEXQUANT_CONTROLLER_ANSWER_PROTO_H_
