#include "common/calibration/calibration_progress.h"

#include <gtest/gtest.h>

#include <cmath>

namespace flexquant {
namespace {

TEST(CalibrationProgressTest, SensitivitiesAreMeansOverPositions) {
  CalibrationProgress progress;
  progress.bucket_positions = {10, 0, 30, 0, 60};
  progress.sums.resize(5);
  progress.sums[4][1] = {1, 0, 6, 0, 3};
  EXPECT_EQ(progress.Positions(), 100U);
  const auto sensitivities = progress.Sensitivities();
  ASSERT_EQ(sensitivities.size(), 5U);
  const Sensitivity& measured = sensitivities[4][1];
  EXPECT_DOUBLE_EQ(measured.mean_kl, 0.1);
  EXPECT_DOUBLE_EQ(measured.bucket_kl[0], 0.1);
  EXPECT_DOUBLE_EQ(measured.bucket_kl[1], 0);  // no positions
  EXPECT_DOUBLE_EQ(measured.bucket_kl[2], 0.2);
  EXPECT_DOUBLE_EQ(measured.bucket_kl[4], 0.05);
  EXPECT_EQ(sensitivities[4][0].mean_kl, 0);
}

TEST(CalibrationProgressTest, ALossWithoutPositionsIsNotKnown) {
  CalibrationProgress::LossSum sum;
  EXPECT_FALSE(sum.Mean().has_value());
  sum = {0.5, 4};
  EXPECT_EQ(sum.Mean(), 0.125);
}

TEST(CalibrationProgressTest, SummarisesTheSamplesOfARung) {
  CalibrationProgress::RungSamples samples;
  for (int i = 200; i > 0; --i) {
    samples.kl.push_back(i);
  }
  samples.agreements = 150;
  samples.nll_nats = 200 * std::log(17.0);
  Rung rung;
  rung.bytes = 7;
  samples.Summarise(&rung);
  EXPECT_DOUBLE_EQ(rung.mean_kl, 100.5);
  EXPECT_DOUBLE_EQ(rung.median_kl, 100);
  EXPECT_DOUBLE_EQ(rung.p99_kl, 198);
  EXPECT_DOUBLE_EQ(rung.top1_agreement, 0.75);
  EXPECT_DOUBLE_EQ(rung.perplexity, 17);
  EXPECT_EQ(rung.bytes, 7U);

  samples.kl = {0.25};
  samples.Summarise(&rung);
  EXPECT_EQ(rung.median_kl, 0.25);
  EXPECT_EQ(rung.p99_kl, 0.25);
}

}  // namespace
}  // namespace flexquant
