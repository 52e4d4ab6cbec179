#include "executor/cuda/device_weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "common/precision.h"
#include "executor/cuda/weight_uploader.h"
#include "tests/executor/test_model.h"
#include "tests/kernels/cuda/device_matrix.h"
#include "tests/kernels/cuda/device_test.h"
#include "tests/kernels/test_matrix.h"

namespace flexquant::executor {
namespace {

using ::testing::HasSubstr;

class DeviceWeightsTest : public testing::DeviceTest {
 protected:
  static size_t FreeBytes() {
    size_t free = 0;
    size_t total = 0;
    EXPECT_EQ(cudaMemGetInfo(&free, &total), cudaSuccess);
    return free;
  }

  static std::unique_ptr<TestModel> Model() {
    FakeModelSource source(FakeModelSource::TinyConfig());
    return std::make_unique<TestModel>(source, /*group_size=*/64);
  }
};

TEST_F(DeviceWeightsTest, TakesTheMemoryThatWasComputed) {
  const auto model = Model();
  uint64_t reported = 0;
  uint64_t expected = 0;
  const auto weights = DeviceWeights::Load(model->store(), 0, [&](uint64_t done, uint64_t total) {
    EXPECT_GT(done, reported);
    reported = done;
    expected = total;
    return absl::OkStatus();
  });
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_EQ((*weights)->bytes(), DeviceWeights::Bytes(model->store().config(), 64));
  EXPECT_EQ(reported, expected);
}

TEST_F(DeviceWeightsTest, AnErrorOfProgressEndsLoading) {
  const auto model = Model();
  const auto ended =
      DeviceWeights::Load(model->store(), 0, [](uint64_t, uint64_t) { return absl::CancelledError("enough"); });
  EXPECT_EQ(ended.status().code(), absl::StatusCode::kCancelled);
}

TEST_F(DeviceWeightsTest, SaysWhatIsMissingBeforeItAllocates) {
  const auto model = Model();
  const size_t before = FreeBytes();
  const auto refused = DeviceWeights::Load(model->store(), uint64_t{1} << 50, [](uint64_t, uint64_t) {
    ADD_FAILURE() << "nothing may be uploaded";
    return absl::OkStatus();
  });
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("missing"));
  EXPECT_EQ(FreeBytes(), before);
}

// Buffers of a few tiles: both are used again and again.
TEST_F(DeviceWeightsTest, PiecesGiveTheBytesOfAWholeMatrix) {
  for (const bool paired : {false, true}) {
    const testing::RandomMatrix matrix(344, 1132, 64, 21);
    const NestedMatrix& w = matrix.view();
    cuda::DeviceNestedMatrix to{nullptr, w.rows, w.cols, w.group_size, paired};
    const testing::DeviceBuffer<uint8_t> memory(static_cast<size_t>(to.bytes()));
    to.data = memory.data();
    const auto uploader = WeightUploader::Create(size_t{64} << 10);
    ASSERT_TRUE(uploader.ok()) << uploader.status();
    uint64_t bytes = 0;
    int pieces = 0;
    ASSERT_TRUE((*uploader)
                    ->Upload(w, to,
                             [&](uint64_t piece) {
                               bytes += piece;
                               ++pieces;
                               return absl::OkStatus();
                             })
                    .ok());
    ASSERT_TRUE((*uploader)->Finish().ok());
    EXPECT_EQ(bytes, w.BytesRead(kTopPrecision));
    EXPECT_GT(pieces, 5);
    EXPECT_EQ(memory.Download(), testing::DeviceMatrix(w, paired).Bytes());
  }
}

}  // namespace
}  // namespace flexquant::executor
