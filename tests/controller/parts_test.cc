// The controller's small parts: stop strings, plan ids, layer-group sizes, the tally of precisions.

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "controller/layer_groups.h"
#include "controller/plan_ids.h"
#include "controller/precision_tally.h"
#include "controller/stop_strings.h"
#include "tests/controller/test_model.h"

namespace flexquant::controller {
namespace {

// Feeds `text` in chunks of `chunk` bytes; returns what was sent and which stop string was found.
std::pair<std::string, std::string> Match(const std::vector<std::string>& stops, const std::string& text,
                                          size_t chunk) {
  StopStringMatcher matcher(stops);
  std::string sent;
  for (size_t begin = 0; begin < text.size(); begin += chunk) {
    const auto output = matcher.Append(text.substr(begin, chunk));
    sent += output.text;
    if (output.match.has_value()) {
      return {sent, *output.match};
    }
  }
  return {sent + matcher.Finish(), ""};
}

TEST(StopStringMatcherTest, EndsBeforeTheStopStringWhereverTheChunksFall) {
  for (size_t chunk = 1; chunk <= 12; ++chunk) {
    EXPECT_EQ(Match({"END"}, "abc EN ENENDxyz", chunk), std::make_pair(std::string("abc EN EN"), std::string("END")))
        << chunk;
    EXPECT_EQ(Match({"END", "\n\n"}, "a\nb\n\nEND", chunk), std::make_pair(std::string("a\nb"), std::string("\n\n")))
        << chunk;
    EXPECT_EQ(Match({"aab"}, "aaaaab!", chunk), std::make_pair(std::string("aaa"), std::string("aab"))) << chunk;
  }
}

TEST(StopStringMatcherTest, WithoutAMatchNothingIsLost) {
  for (size_t chunk = 1; chunk <= 12; ++chunk) {
    EXPECT_EQ(Match({"END", "\xC3\xA9t\xC3\xA9"}, "an EN and \xC3\xA9t, END-less: EN", chunk).first.substr(0, 10),
              "an EN and ");
    EXPECT_EQ(Match({"ENDE"}, "the END", chunk), std::make_pair(std::string("the END"), std::string()));
    EXPECT_EQ(Match({}, "anything", chunk), std::make_pair(std::string("anything"), std::string()));
  }
}

TEST(StopStringMatcherTest, HoldsBackExactlyWhatMayStillMatch) {
  StopStringMatcher matcher({"<stop>", "sto"});
  EXPECT_EQ(matcher.Append("a<").text, "a");
  EXPECT_EQ(matcher.Append("s").text, "");
  EXPECT_EQ(matcher.Append("x").text, "<sx");
  EXPECT_EQ(matcher.Append("st").text, "");
  EXPECT_EQ(matcher.Finish(), "st");
}

TEST(StopStringMatcherTest, TheFirstOneCompletedWins) {
  EXPECT_EQ(Match({"bcde", "cd"}, "abcdef", 6), std::make_pair(std::string("ab"), std::string("cd")));
  EXPECT_EQ(Match({"cd", "bcd"}, "abcdef", 6), std::make_pair(std::string("a"), std::string("bcd")));
}

TEST(PlanIdsTest, GivesIdsOnFirstUse) {
  PlanIds ids(4);
  ids.BeginStep();
  const auto first = ids.Get(PrecisionPlan::Uniform(3, 2));
  const auto second = ids.Get(PrecisionPlan::Uniform(4, 2));
  EXPECT_TRUE(first.added && second.added);
  EXPECT_NE(first.id, second.id);
  const auto again = ids.Get(PrecisionPlan::Uniform(3, 2));
  EXPECT_FALSE(again.added);
  EXPECT_EQ(again.id, first.id);
}

TEST(PlanIdsTest, AFullTableReplacesOnlyPlansOfEarlierSteps) {
  PlanIds ids(2);
  ids.BeginStep();
  const uint32_t three = ids.Get(PrecisionPlan::Uniform(3, 2)).id;
  const uint32_t four = ids.Get(PrecisionPlan::Uniform(4, 2)).id;
  ids.BeginStep();
  EXPECT_EQ(ids.Get(PrecisionPlan::Uniform(3, 2)).id, three);
  const auto five = ids.Get(PrecisionPlan::Uniform(5, 2));
  EXPECT_TRUE(five.added);
  EXPECT_EQ(five.id, four);
  ids.BeginStep();
  EXPECT_TRUE(ids.Get(PrecisionPlan::Uniform(4, 2)).added);
}

TEST(LayerGroupsTest, SizesFollowTheShape) {
  const ModelConfig config = TestConfig();
  const LayerGroups groups(config, 32, Dtype::kF32);
  ASSERT_EQ(groups.count(), 9);
  EXPECT_EQ(groups.Name(2), "layers.0.gate_up");
  EXPECT_EQ(groups.Name(8), "lm_head");
  EXPECT_EQ(groups.num_weights(), (std::vector<uint64_t>{128 * 64, 64 * 64, 256 * 64, 64 * 128, 128 * 64, 64 * 64,
                                                         256 * 64, 64 * 128, 258 * 64}));
}

TEST(LayerGroupsTest, BytesAreTheNestedFormats) {
  const LayerGroups groups(TestConfig(), 32, Dtype::kF32);
  // Rows in tiles of 16 (258 -> 17), two units and two groups a row: 2 * (bits + 1) * 64 bytes a tile and unit pair.
  const auto bytes = [](uint64_t bits) {
    return (2 * (8 + 4 + 16) + 17) * (2 * bits * 64 + 2 * 64) + 2 * 4 * (4 * bits * 64 + 4 * 64);
  };
  for (const int bits : kPrecisions) {
    // Below 8 bits four rows of the head, of 258 / 64, are scored again: 64 codes, two fp32 pairs.
    const uint64_t again = bits < 8 ? 4 * (64 + 2 * 8) : 0;
    EXPECT_EQ(groups.BytesRead(PrecisionPlan::Uniform(bits, 9)), bytes(static_cast<uint64_t>(bits)) + again) << bits;
  }
  uint64_t weights = 0;
  for (const uint64_t count : groups.num_weights()) {
    weights += count;
  }
  EXPECT_EQ(groups.BytesRead(PrecisionPlan::Uniform(16, 9)), 4 * weights);
  EXPECT_EQ(LayerGroups(TestConfig(), 32, Dtype::kBF16).BytesRead(PrecisionPlan::Uniform(16, 9)), 2 * weights);
  const LayerGroups coarse(TestConfig(), 32, Dtype::kF32, /*fine_activations_from=*/8);
  for (const int bits : kPrecisions) {
    const PrecisionPlan plan = PrecisionPlan::Uniform(bits, 9);
    EXPECT_DOUBLE_EQ(groups.Products(plan), static_cast<double>(bits < 6 ? weights : 2 * weights)) << bits;
    EXPECT_DOUBLE_EQ(coarse.Products(plan), static_cast<double>(bits < 8 ? weights : 2 * weights)) << bits;
  }
}

TEST(PrecisionTallyTest, CountsWhatWasUsed) {
  const LayerGroups groups(TestConfig(), 32, Dtype::kF32);
  PrecisionTally tally(groups);
  const auto uniform = [](int bits) { return PrecisionPlan::Uniform(bits, 9); };
  EXPECT_EQ(tally.Add(uniform(8), std::nullopt), 8);
  EXPECT_EQ(tally.Add(uniform(3), std::nullopt), 3);
  EXPECT_EQ(tally.Add(uniform(3), std::nullopt), 3);
  EXPECT_EQ(tally.Add(uniform(16), std::nullopt), 16);
  const PrecisionUse use = tally.Report();
  EXPECT_EQ(use.histogram, (std::map<int, uint64_t>{{3, 2}, {8, 1}, {16, 1}}));
  EXPECT_DOUBLE_EQ(use.mean_bits, 7.5);
  EXPECT_EQ(use.plan_changes, 2U);
  EXPECT_EQ(use.weight_bytes_read,
            groups.BytesRead(uniform(8)) + 2 * groups.BytesRead(uniform(3)) + groups.BytesRead(uniform(16)));
  EXPECT_EQ(use.weight_bytes_top, 4 * groups.BytesRead(uniform(8)));
}

TEST(PrecisionTallyTest, MixedPlansAreWeightedBySizeAndRounded) {
  const LayerGroups groups(TestConfig(), 32, Dtype::kF32);
  PrecisionTally tally(groups);
  PrecisionPlan plan = PrecisionPlan::Uniform(4, 9);
  plan.bits[8] = 8;  // lm_head
  const double head = 258.0 * 64;
  const double rest = 2.0 * (128 * 64 + 64 * 64 + 256 * 64 + 64 * 128);
  EXPECT_DOUBLE_EQ(tally.Add(plan, std::nullopt), (4 * rest + 8 * head) / (rest + head));
  EXPECT_EQ(tally.Report().histogram, (std::map<int, uint64_t>{{5, 1}}));
}

TEST(PrecisionTallyTest, EmptyIsZero) {
  const LayerGroups groups(TestConfig(), 32, Dtype::kF32);
  const PrecisionUse use = PrecisionTally(groups).Report();
  EXPECT_TRUE(use.histogram.empty());
  EXPECT_EQ(use.mean_bits, 0);
  EXPECT_EQ(use.weight_bytes_read, 0U);
}

}  // namespace
}  // namespace flexquant::controller
