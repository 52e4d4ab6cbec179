#include "common/precision.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace flexquant {
namespace {

TEST(PrecisionTest, KnowsTheQuantizedPrecisions) {
  for (const int bits : {3, 4, 5, 6, 8}) {
    EXPECT_TRUE(IsQuantizedPrecision(bits)) << bits;
  }
  for (const int bits : {-3, 0, 1, 2, 7, 9, 16}) {
    EXPECT_FALSE(IsQuantizedPrecision(bits)) << bits;
  }
}

TEST(PrecisionTest, NamesLayerGroupsInPlanOrder) {
  EXPECT_EQ(NumLayerGroups(2), 9);
  EXPECT_EQ(LayerGroupName(0, 2), "layers.0.qkv");
  EXPECT_EQ(LayerGroupName(LayerGroupIndex(0, LayerGroupKind::kO), 2), "layers.0.o");
  EXPECT_EQ(LayerGroupName(6, 2), "layers.1.gate_up");
  EXPECT_EQ(LayerGroupName(LayerGroupIndex(1, LayerGroupKind::kDown), 2), "layers.1.down");
  EXPECT_EQ(LayerGroupName(LmHeadIndex(2), 2), "lm_head");
}

TEST(PrecisionPlanTest, ValidatesLengthAndWidths) {
  EXPECT_TRUE(PrecisionPlan::Uniform(4, 9).Validate(9, false).ok());
  const absl::Status wrong_length = PrecisionPlan::Uniform(4, 8).Validate(9, false);
  EXPECT_EQ(wrong_length.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(std::string(wrong_length.message()).find("8 layer groups"), std::string::npos) << wrong_length;

  PrecisionPlan bad = PrecisionPlan::Uniform(4, 9);
  bad.bits[5] = 7;
  const absl::Status wrong_width = bad.Validate(9, true);
  EXPECT_EQ(wrong_width.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(std::string(wrong_width.message()).find("7 bits for layer group 5"), std::string::npos) << wrong_width;
}

TEST(PrecisionPlanTest, ReferenceIsAllOrNothing) {
  PrecisionPlan plan = PrecisionPlan::Uniform(kReferencePrecision, 5);
  EXPECT_TRUE(plan.Validate(5, /*has_reference=*/true).ok());
  EXPECT_EQ(plan.Validate(5, /*has_reference=*/false).code(), absl::StatusCode::kInvalidArgument);
  plan.bits[0] = 8;
  EXPECT_EQ(plan.Validate(5, /*has_reference=*/true).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(PrecisionPlan{}.Validate(1, true).code(), absl::StatusCode::kInvalidArgument);
}

TEST(PrecisionPlanTest, StretchedKeepsDepthAndKind) {
  const PrecisionPlan three{{3, 4, 5, 6, 4, 5, 6, 8, 5, 6, 8, 3, 8}};
  EXPECT_EQ(three.Stretched(3), three);
  // Layers 0, 1, 2 of three are at 0, 2, 4 of five; 1 and 3 are halfway and take the deeper one.
  EXPECT_EQ(three.Stretched(5).bits,
            (std::vector<uint8_t>{3, 4, 5, 6, 4, 5, 6, 8, 4, 5, 6, 8, 5, 6, 8, 3, 5, 6, 8, 3, 8}));
  EXPECT_EQ(three.Stretched(2).bits, (std::vector<uint8_t>{3, 4, 5, 6, 5, 6, 8, 3, 8}));
  EXPECT_EQ(three.Stretched(1).bits, (std::vector<uint8_t>{3, 4, 5, 6, 8}));
  EXPECT_EQ(PrecisionPlan({{3, 4, 5, 6, 8}}).Stretched(2).bits, (std::vector<uint8_t>{3, 4, 5, 6, 3, 4, 5, 6, 8}));
}

TEST(PrecisionPlanTest, MeanBitsIsWeightedBySize) {
  const PrecisionPlan plan{{8, 4}};
  EXPECT_DOUBLE_EQ(plan.MeanBits({100, 300}), 5.0);
  EXPECT_DOUBLE_EQ(PrecisionPlan{}.MeanBits({}), 0.0);
}

}  // namespace
}  // namespace flexquant
