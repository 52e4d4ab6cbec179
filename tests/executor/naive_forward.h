#ifndef FLEXQUANT_TESTS_EXECUTOR_NAIVE_FORWARD_H_
#define FLEXQUANT_TESTS_EXECUTOR_NAIVE_FORWARD_H_

#include <cstdint>
#include <vector>

#include "common/precision.h"
#include "common/store/model_store.h"

namespace flexquant::executor {

// The transformer written down plainly in fp64, one token and one element at a time, without cache, pages or threads:
// logits [tokens, vocab] of every position. Weights are the store's at `plan`. Two roundings of the executor's are part
// of its definition and done here too: keys and values to fp16, and inputs of quantised products to int8 a group.
std::vector<double> NaiveForward(const ModelStore& store, const std::vector<uint32_t>& tokens,
                                 const PrecisionPlan& plan);

}  // namespace flexquant::executor

#endif  // FLEXQUANT_TESTS_EXECUTOR_NAIVE_FORWARD_H_
