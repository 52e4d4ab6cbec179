#ifndef FLEXQUANT_CONTROLLER_ANSWER_PROTO_H_
#define FLEXQUANT_CONTROLLER_ANSWER_PROTO_H_

// Answers in the public protocol's messages.

#include "common/tokenizer/tokenizer.h"
#include "controller/generation.h"
#include "flexquant/v1/inference.pb.h"

namespace flexquant::controller {

// With text and bytes if `tokenizer` is not null.
v1::TokenInfo ToProto(const AnswerToken& token, const Tokenizer* tokenizer);
v1::PrecisionReport ToProto(const PrecisionUse& use);
v1::GenerationFinished ToProto(const AnswerEnd& end);

}  // namespace flexquant::controller

#endif  // FLEXQUANT_CONTROLLER_ANSWER_PROTO_H_
