#ifndef FLEXQUANT_TESTS_ACCURACY_RANK_COMPARISON_H_
#define FLEXQUANT_TESTS_ACCURACY_RANK_COMPARISON_H_

#include <cstdint>
#include <vector>

#include "common/precision.h"
#include "common/store/model_store.h"

namespace flexquant {

// What `ranks` ranks say along the greedy answer that one rank gives.
struct RankComparison {
  std::vector<uint32_t> answer;  // of one rank
  std::vector<uint32_t> tokens;  // most likely for `ranks` ranks after the same tokens
  double relative_error = 0;     // of all logits, by norms

  int Same() const;
};

// Fails the test where a step fails.
RankComparison CompareRanks(const ModelStore& store, int ranks, const std::vector<uint32_t>& prompt,
                            const PrecisionPlan& plan, int count);

// Each layer group at a width of its own.
PrecisionPlan MixedPlan(int num_layer_groups);

}  // namespace flexquant

#endif  // FLEXQUANT_TESTS_ACCURACY_RANK_COMPARISON_H_
