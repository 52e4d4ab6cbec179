#include "common/formats/ggml_dequantize.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <sstream>

#include "absl/strings/escaping.h"
#include "common/mapped_file.h"
#include "tests/formats/test_support.h"

namespace flexquant {
namespace {

const GgmlTypeTraits* FindByName(const std::string& name) {
  for (uint32_t type = 0; type < 64; ++type) {
    const GgmlTypeTraits* traits = FindGgmlType(type);
    if (traits != nullptr && traits->name == name) {
      return traits;
    }
  }
  return nullptr;
}

// Random blocks and the values that an independent implementation gives (make_ggml_blocks.py).
TEST(GgmlDequantizeTest, BlocksEqualTheGoldenOnes) {
  const auto text = ReadFile(SourceFolder() + "/tests/formats/ggml_blocks.txt");
  ASSERT_TRUE(text.ok()) << text.status();
  std::istringstream lines(*text);
  std::string name;
  std::string block_hex;
  std::string values_hex;
  std::set<std::string> seen;
  while (lines >> name >> block_hex >> values_hex) {
    const GgmlTypeTraits* traits = FindByName(name);
    ASSERT_NE(traits, nullptr) << name;
    const std::string block = absl::HexStringToBytes(block_hex);
    const std::string values = absl::HexStringToBytes(values_hex);
    ASSERT_EQ(block.size(), static_cast<size_t>(traits->block_bytes)) << name;
    std::vector<float> expected(static_cast<size_t>(traits->block_elements));
    ASSERT_EQ(values.size(), expected.size() * sizeof(float)) << name;
    std::memcpy(expected.data(), values.data(), values.size());
    // Two blocks, so that the stride is tested too.
    std::vector<float> actual(2 * expected.size());
    GgmlDequantize(traits->type, AsBytes(block + block), absl::MakeSpan(actual));
    float largest = 0;
    for (const float value : expected) {
      largest = std::max(largest, std::abs(value));
    }
    for (size_t i = 0; i < actual.size(); ++i) {
      ASSERT_NEAR(actual[i], expected[i % expected.size()], 1e-6F * largest) << name << " element " << i;
    }
    seen.insert(name);
  }
  EXPECT_EQ(seen.size(), 10U);
}

TEST(GgmlDequantizeTest, PlainTypes) {
  std::vector<float> out(3);
  GgmlDequantize(GgmlType::kF32, AsBytes(FloatBytes({1.5F, -2.0F, 1e-30F})), absl::MakeSpan(out));
  EXPECT_THAT(out, testing::ElementsAre(1.5F, -2.0F, 1e-30F));
  GgmlDequantize(GgmlType::kF16, AsBytes(std::string("\x00\x3C\x00\xC0\x01\x00", 6)), absl::MakeSpan(out));
  EXPECT_THAT(out, testing::ElementsAre(1.0F, -2.0F, 0x1p-24F));
  GgmlDequantize(GgmlType::kBF16, AsBytes(std::string("\x80\x3F\x00\xC0\x80\x00", 6)), absl::MakeSpan(out));
  EXPECT_THAT(out, testing::ElementsAre(1.0F, -2.0F, 0x1p-126F));
  GgmlDequantize(GgmlType::kF32, {}, {});
}

TEST(GgmlDequantizeTest, UnknownTypesAreNotListed) {
  for (const uint32_t type : {4U, 5U, 9U, 15U, 16U, 29U, 31U, UINT32_MAX}) {
    EXPECT_EQ(FindGgmlType(type), nullptr) << type;
  }
}

}  // namespace
}  // namespace flexquant
