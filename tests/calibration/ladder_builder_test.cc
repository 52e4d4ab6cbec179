#include "common/calibration/ladder_builder.h"

#include <gtest/gtest.h>

#include <vector>

#include "tests/calibration/made_up.h"

namespace flexquant {
namespace {

using Bits = std::vector<uint8_t>;

GroupSensitivity At(double kl3, double kl4, double kl5, double kl6) {
  GroupSensitivity sensitivity;
  const double kl[] = {kl3, kl4, kl5, kl6};
  for (size_t w = 0; w < sensitivity.size(); ++w) {
    sensitivity[w].mean_kl = kl[w];
  }
  return sensitivity;
}

std::vector<Bits> Plans(const std::vector<Rung>& rungs) {
  std::vector<Bits> plans;
  for (const Rung& rung : rungs) {
    plans.push_back(rung.plan.bits);
  }
  return plans;
}

TEST(GreedyPathTest, TakesTheCheapestStepPerByteFirst) {
  // KL per byte of the steps from the top down: 0.1, 0.4, 1, 5 and (a group ten times as large) 0.2, 0.3, 0.5, 2.
  const std::vector<GroupSensitivity> sensitivities = {At(6.6, 1.6, 0.6, 0.2), At(32, 12, 7, 4)};
  const std::vector<GroupBytes> bytes = {{3, 4, 5, 6, 8}, {30, 40, 50, 60, 80}};
  const auto path = GreedyPath(sensitivities, bytes);
  EXPECT_EQ(Plans(path), (std::vector<Bits>{{8, 8}, {6, 8}, {6, 6}, {6, 5}, {5, 5}, {5, 4}, {4, 4}, {4, 3}, {3, 3}}));
  EXPECT_EQ(path.front().bytes, 88U);
  EXPECT_EQ(path.front().predicted_kl, 0.0);
  EXPECT_EQ(path[2].bytes, 66U);
  EXPECT_DOUBLE_EQ(path[2].predicted_kl, 4.2);
  EXPECT_EQ(path.back().bytes, 33U);
  EXPECT_DOUBLE_EQ(path.back().predicted_kl, 38.6);
}

TEST(GreedyPathTest, NoiseAndTiesAreInOrder) {
  // Equal groups: the first one first. 5 bits that measured better than 6 come at once behind 6.
  const std::vector<GroupSensitivity> sensitivities = {At(3, 2, 0.5, 1), At(3, 2, 0.5, 1)};
  const std::vector<GroupBytes> bytes = {{3, 4, 5, 6, 8}, {3, 4, 5, 6, 8}};
  EXPECT_EQ(Plans(GreedyPath(sensitivities, bytes)),
            (std::vector<Bits>{{8, 8}, {6, 8}, {5, 8}, {5, 6}, {5, 5}, {4, 5}, {3, 5}, {3, 4}, {3, 3}}));
}

TEST(ThinOutTest, KeepsBothEndsAndEvenRatios) {
  std::vector<Rung> path;
  for (uint64_t bytes = 1024; bytes >= 256; --bytes) {
    path.push_back(MadeUpRung(bytes, 0.5));
  }
  const auto kept = ThinOut(path, 5);
  ASSERT_EQ(kept.size(), 5U);
  EXPECT_EQ(kept[0].bytes, 1024U);
  EXPECT_EQ(kept[1].bytes, 724U);
  EXPECT_EQ(kept[2].bytes, 512U);
  EXPECT_EQ(kept[3].bytes, 362U);
  EXPECT_EQ(kept[4].bytes, 256U);
}

TEST(ThinOutTest, KeepsAllOfAShortPathOnce) {
  const std::vector<Rung> path = {MadeUpRung(80, 0), MadeUpRung(60, 0.1), MadeUpRung(30, 0.9)};
  EXPECT_EQ(ThinOut(path, 24), path);
  EXPECT_EQ(ThinOut({path[0]}, 2), std::vector<Rung>{path[0]});
}

TEST(MonotoneRungsTest, DropsRungsThatACheaperOneBeats) {
  const std::vector<Rung> measured = {MadeUpRung(100, 0),   MadeUpRung(90, 0.02), MadeUpRung(80, 0.01),
                                      MadeUpRung(70, 0.01), MadeUpRung(60, 0.5),  MadeUpRung(50, 0.4)};
  const std::vector<Rung> expected = {measured[5], measured[3], measured[0]};
  EXPECT_EQ(MonotoneRungs(measured), expected);
}

TEST(MonotoneRungsTest, TheDearestStays) {
  const std::vector<Rung> measured = {MadeUpRung(100, 0, 8), MadeUpRung(90, 0, 6), MadeUpRung(80, 0.1)};
  EXPECT_EQ(MonotoneRungs(measured), (std::vector<Rung>{measured[2], measured[0]}));
}

}  // namespace
}  // namespace flexquant
