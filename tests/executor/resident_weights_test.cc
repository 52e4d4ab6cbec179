#include "executor/resident_weights.h"

#include <cstring>
#include <utility>

#include "gtest/gtest.h"
#include "tests/executor/test_model.h"
#include "tests/testing/fake_model_source.h"

namespace flexquant::executor {
namespace {

void ExpectCopied(const NestedMatrix& copy, const NestedMatrix& whole) {
  ASSERT_EQ(copy.rows, whole.rows);
  ASSERT_EQ(copy.cols, whole.cols);
  const auto plane = static_cast<size_t>(whole.tiles() * whole.units() * kPlaneWordBytes);
  const std::pair<const uint8_t * NestedMatrix::*, size_t> planes[] = {{&NestedMatrix::base3, 3 * plane},
                                                                       {&NestedMatrix::bit4, plane},
                                                                       {&NestedMatrix::bit5, plane},
                                                                       {&NestedMatrix::bit6, plane},
                                                                       {&NestedMatrix::bits78, 2 * plane}};
  for (const auto& [member, bytes] : planes) {
    EXPECT_NE(copy.*member, whole.*member);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(copy.*member) % 64, 0U);
    EXPECT_EQ(std::memcmp(copy.*member, whole.*member, bytes), 0);
  }
  const auto scales = static_cast<size_t>(whole.tiles() * whole.groups() * 2 * kTileRows) * sizeof(uint16_t);
  EXPECT_NE(copy.scales, whole.scales);
  EXPECT_EQ(std::memcmp(copy.scales, whole.scales, scales), 0);
  EXPECT_EQ(copy.reference, whole.reference);
}

TEST(ResidentWeightsTest, EveryLayerGroupIsCopied) {
  for (const bool tied : {false, true}) {
    ModelConfig config = FakeModelSource::TinyConfig();
    config.tied_head = tied;
    const auto model = TestModel::Random(config);
    const ModelStore& whole = model->store();
    for (const int threads : {1, 3}) {
      const auto resident = ResidentWeights::Load(whole, threads, {});
      ASSERT_TRUE(resident.ok()) << resident.status();
      const ModelStore& store = (*resident)->store();
      for (int group = 0; group < whole.num_layer_groups(); ++group) {
        ExpectCopied(store.layer_group(group), whole.layer_group(group));
      }
      EXPECT_EQ(store.embedding().base3, tied ? store.lm_head().base3 : whole.embedding().base3);
      EXPECT_EQ(store.block(0).attention_norm.data(), whole.block(0).attention_norm.data());
      EXPECT_EQ(store.revision(), whole.revision());
    }
  }
}

}  // namespace
}  // namespace flexquant::executor
