#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "common/model_source.h"
#include "common/precision.h"
#include "common/store/convert.h"
#include "common/store/model_store.h"
#include "common/store/nested_quantizer.h"
#include "common/store/package_layout.h"

namespace flexquant {
namespace {

namespace fs = std::filesystem;

std::string Stories260K() {
  const char* data = std::getenv("FLEXQUANT_TEST_DATA");
  const char* source = std::getenv("FLEXQUANT_SOURCE");
  const fs::path shared = data != nullptr     ? fs::path(data).parent_path()
                          : source != nullptr ? fs::path(source) / "../shared"
                                              : fs::path("../shared");
  return (shared / "models/stories260K/stories260K.bin").string();
}

// Squared error of asymmetric round-to-nearest over minimum to maximum, one row's group.
double RoundToNearestError(const float* weights, size_t count, int bits) {
  const auto [low, high] = std::minmax_element(weights, weights + count);
  const double step = (static_cast<double>(*high) - static_cast<double>(*low)) / ((1 << bits) - 1);
  double sum = 0;
  for (size_t i = 0; i < count; ++i) {
    const double position = (static_cast<double>(weights[i]) - static_cast<double>(*low)) / step;
    sum += step > 0 ? std::pow((std::round(position) - position) * step, 2) : 0;
  }
  return sum;
}

// Root of the squared errors of every matrix of `source`, relative to their norm, at each precision.
std::array<double, kPrecisions.size()> RoundToNearestErrors(ModelSource& source, int64_t group_size) {
  std::array<double, kPrecisions.size()> sums{};
  double norm = 0;
  for (const MatrixSpec& spec : PackageMatrices(source.config())) {
    for (const SourcePart& part : spec.parts) {
      const auto weights = source.ReadTensor(part.name, part.rows, spec.cols);
      EXPECT_TRUE(weights.ok()) << weights.status();
      for (int64_t row = 0; row < part.rows; ++row) {
        for (int64_t k = 0; k < spec.cols; k += group_size) {
          const float* group = weights->data() + row * spec.cols + k;
          const auto count = static_cast<size_t>(std::min(group_size, spec.cols - k));
          for (size_t p = 0; p < kPrecisions.size(); ++p) {
            sums[p] += RoundToNearestError(group, count, kPrecisions[p]);
          }
        }
      }
      for (const float w : *weights) {
        norm += static_cast<double>(w) * static_cast<double>(w);
      }
    }
  }
  for (double& sum : sums) {
    sum = std::sqrt(sum / norm);
  }
  return sums;
}

TEST(RealModelTest, Stories260KIsWithinFivePercentOfRoundToNearest) {
  const std::string path = Stories260K();
  if (!fs::exists(path)) {
    GTEST_SKIP() << "no " << path << "; set FLEXQUANT_TEST_DATA";
  }
  const auto source = OpenModelSource(path);
  ASSERT_TRUE(source.ok()) << source.status();
  const std::string root = testing::TempDir() + "/flexquant_real_" + std::to_string(getpid());
  fs::create_directories(root);
  for (const int64_t group_size : {32, 64, 128}) {
    ConvertOptions options;
    options.group_size = group_size;
    options.keep_reference = true;
    options.overwrite = true;
    options.source_path = path;
    const auto report = Convert(**source, root + "/model", options);
    ASSERT_TRUE(report.ok()) << report.status();
    const auto separate = RoundToNearestErrors(**source, group_size);
    for (size_t p = 0; p < kPrecisions.size(); ++p) {
      std::printf("stories260K group %3d bits %d: nested %.5f separate %.5f ratio %.3f\n", static_cast<int>(group_size),
                  kPrecisions[p], report->relative_error[p], separate[p], report->relative_error[p] / separate[p]);
      EXPECT_LE(report->relative_error[p], 1.05 * separate[p]) << kPrecisions[p] << " bits";
    }
  }
  StoreOptions verify;
  verify.verify_checksum = true;
  const auto store = ModelStore::Open(root + "/model", verify);
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_EQ((*store)->config().num_layers, 5);
  EXPECT_EQ((*store)->block(4).down.cols, 172);
  // The reference is the source, value for value; its rows are those of the planes.
  const auto down = (*source)->ReadTensor("model.layers.4.mlp.down_proj.weight", 64, 172);
  ASSERT_TRUE(down.ok()) << down.status();
  const NestedMatrix& matrix = (*store)->block(4).down;
  ASSERT_EQ(matrix.reference_dtype, Dtype::kF32);
  EXPECT_TRUE(std::equal(down->begin(), down->end(), static_cast<const float*>(matrix.reference)));
  std::vector<float> row(172);
  DequantizeRow(matrix, 63, 8, absl::MakeSpan(row));
  for (size_t k = 0; k < row.size(); ++k) {
    ASSERT_NEAR(row[k], (*down)[63 * 172 + k], 0.01F) << k;
  }
  fs::remove_all(root);
}

}  // namespace
}  // namespace flexquant
