// KV cache, what is fetched ahead, lazily used memory, row order.

#include <array>
#include <fstream>
#include <string>
#include <vector>

#include "common/nested_matrix.h"
#include "common/precision.h"
#include "executor/fetch_ahead.h"
#include "executor/kv_cache.h"
#include "executor/memory.h"
#include "executor/row_order.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/kernels.h"
#include "tests/testing/fake_model_source.h"

namespace flexquant::executor {
namespace {

using ::testing::HasSubstr;

TEST(KvCacheTest, DefaultSizeHoldsFourContextsInAQuarterOfMemory) {
  const ModelConfig config = FakeModelSource::TinyConfig();  // context 128
  const auto roomy = KvCache::Plan(config, 16, 0, uint64_t{1} << 30U);
  ASSERT_TRUE(roomy.ok()) << roomy.status();
  EXPECT_EQ(roomy->num_blocks, 4U * 8U);
  EXPECT_EQ(roomy->BlockBytes(), 2U * 2U * 16U * 16U * 2U * 2U);
  const auto tight = KvCache::Plan(config, 16, 0, roomy->BlockBytes() * 4 * 5);
  ASSERT_TRUE(tight.ok()) << tight.status();
  EXPECT_EQ(tight->num_blocks, 5U);
  EXPECT_EQ(KvCache::Plan(config, 16, 0, roomy->BlockBytes()).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(KvCacheTest, SaysHowMuchMemoryIsMissing) {
  const auto plan = KvCache::Plan(FakeModelSource::TinyConfig(), 16, uint64_t{5} << 30U, uint64_t{3} << 30U);
  EXPECT_EQ(plan.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(plan.status().message()), HasSubstr("needs 5120 MiB"));
  EXPECT_THAT(std::string(plan.status().message()), HasSubstr("3072 MiB of memory are free"));
  EXPECT_THAT(std::string(plan.status().message()), HasSubstr("2048 MiB are missing"));
}

TEST(KvCacheTest, RefusesSizesThatCannotBe) {
  const ModelConfig config = FakeModelSource::TinyConfig();
  for (const uint32_t block_tokens : {0U, 1025U}) {
    EXPECT_EQ(KvCache::Plan(config, block_tokens, 0, 1U << 30U).status().code(), absl::StatusCode::kInvalidArgument);
  }
  EXPECT_EQ(KvCache::Plan(config, 16, 100, 1U << 30U).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(KvCache::Plan(config, 24, 0, 1U << 30U, 8).status().message()), HasSubstr("multiple of 16"));
  EXPECT_THAT(std::string(KvCache::Plan(config, 16, 0, 1U << 30U, 4).status().message()), HasSubstr("8, 16"));
  ModelConfig wide = config;
  wide.head_dim = 512;
  EXPECT_THAT(std::string(KvCache::Plan(wide, 16, 0, 1U << 30U, 8).status().message()), HasSubstr("at most 256"));
}

// Codes, two scales and a sum a position; the dimensions padded to 16.
TEST(KvCacheTest, EightBitsTakeLittleMoreThanHalf) {
  const KvCache::Shape halves{30, 3, 64, 32, 5};
  KvCache::Shape bytes = halves;
  bytes.bits = 8;
  EXPECT_EQ(bytes.PartBytes(), 2 * (16 * 64 + 64));
  EXPECT_EQ(bytes.BlockBytes() * 32, halves.BlockBytes() * 17);
  const auto cache = KvCache::Create(bytes);
  ASSERT_TRUE(cache.ok()) << cache.status();
  EXPECT_EQ(cache->PartOffset(3) + 2 * cache->head_stride(), (2 * 5 + 3) * 2 * static_cast<int64_t>(Kv8SlabBytes(64)));
  EXPECT_EQ(static_cast<uint64_t>(cache->values(29) + 3 * cache->head_stride() - cache->keys(0)), bytes.Bytes());
}

TEST(KvCacheTest, PartsFillTheCacheAndAreDistinct) {
  const KvCache::Shape shape{2, 3, 4, 2, 5};
  auto cache = KvCache::Create(shape);
  ASSERT_TRUE(cache.ok()) << cache.status();
  uint16_t next = 0;
  const auto visit = [&](auto use) {
    next = 0;
    for (int64_t layer = 0; layer < shape.num_layers; ++layer) {
      for (uint32_t block = 0; block < shape.num_blocks; ++block) {
        for (int64_t head = 0; head < shape.num_kv_heads; ++head) {
          const int64_t part = cache->PartOffset(block) + head * cache->head_stride();
          for (int64_t i = 0; i < shape.block_tokens * shape.head_dim; ++i) {
            use(reinterpret_cast<uint16_t*>(cache->keys(layer) + part)[i], ++next);
            use(reinterpret_cast<uint16_t*>(cache->values(layer) + part)[i], ++next);
          }
        }
      }
    }
  };
  visit([](uint16_t& at, uint16_t value) { at = value; });
  visit([](const uint16_t& at, uint16_t value) { EXPECT_EQ(at, value); });
  EXPECT_EQ(shape.Bytes(), next * sizeof(uint16_t));
}

// Pieces that a thread which waits is offered until there are no more.
int64_t Pieces(const FetchAhead& ahead, int thread) {
  int64_t pieces = 0;
  ahead.FetchFirst(thread);
  while (ahead.FetchMore(thread, pieces)) {
    ++pieces;
  }
  return pieces;
}

TEST(FetchAheadTest, PiecesEndWithTheShareAndWithWhatL2Holds) {
  FetchAhead ahead(2);
  EXPECT_EQ(Pieces(ahead, 0), 0);
  NestedMatrix w;
  w.rows = 40 * kTileRows;
  w.cols = 64;  // 2 units
  w.group_size = 64;
  std::vector<uint8_t> planes(static_cast<size_t>(w.tiles() * w.units() * 3 * kPlaneWordBytes));
  w.base3 = w.bit4 = w.bit5 = w.bit6 = w.bits78 = planes.data();
  ahead.ExpectProduct(w, 8);
  // A share of 20 tiles is 40 units: 16 in any case, then pieces of 4.
  EXPECT_EQ(Pieces(ahead, 0), 6);
  EXPECT_EQ(Pieces(ahead, 1), 6);
  ahead.ExpectProduct(w, kReferencePrecision);
  EXPECT_EQ(Pieces(ahead, 0), 0);
  w.rows = 10000 * kTileRows;
  planes.resize(static_cast<size_t>(w.tiles() * w.units() * 3 * kPlaneWordBytes));
  w.base3 = w.bit4 = w.bit5 = w.bit6 = w.bits78 = planes.data();
  ahead.ExpectProduct(w, 3);
  EXPECT_EQ(Pieces(ahead, 1), (512 - 16) / 4);
  ahead.ExpectNothing();
  EXPECT_EQ(Pieces(ahead, 1), 0);
}

TEST(FetchAheadTest, EachThreadHasItsOwnRanges) {
  FetchAhead ahead(2);
  std::array<uint8_t, 4096> memory = {};
  ahead.ClearRanges(64);
  for (int64_t i = 0; i < 19; ++i) {
    ahead.AddRange(1, i * 64);
  }
  EXPECT_EQ(Pieces(ahead, 1), 0);  // not expected yet
  ahead.ExpectRanges(memory.data());
  EXPECT_EQ(Pieces(ahead, 0), 0);
  EXPECT_EQ(Pieces(ahead, 1), 2);  // 16 in any case, then pieces of 2
  for (int64_t i = 0; i < 2 * FetchAhead::kRanges; ++i) {
    ahead.AddRange(1, 0);
  }
  EXPECT_EQ(Pieces(ahead, 1), (FetchAhead::kRanges - 16) / 2);
  ahead.ClearRanges(64);
  EXPECT_EQ(Pieces(ahead, 1), 0);
}

uint64_t ResidentBytes() {
  std::ifstream statm("/proc/self/statm");
  uint64_t size = 0;
  uint64_t resident = 0;
  statm >> size >> resident;
  return resident * 4096;
}

TEST(MemoryTest, UntouchedMemoryTakesNoRoom) {
  const uint64_t before = ResidentBytes();
  const auto buffer = LazyBuffer::Allocate(uint64_t{1} << 32U, "a test");
  ASSERT_TRUE(buffer.ok()) << buffer.status();
  buffer->as<uint8_t>()[uint64_t{1} << 31U] = 1;
  EXPECT_EQ(buffer->as<uint8_t>()[0], 0);
  EXPECT_LT(ResidentBytes(), before + (64U << 20U));
}

TEST(MemoryTest, ImpossibleSizesAreErrors) {
  const auto buffer = LazyBuffer::Allocate(uint64_t{1} << 60U, "a test");
  EXPECT_EQ(buffer.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(buffer.status().message()), HasSubstr("a test"));
  EXPECT_EQ(LazyBuffer::Allocate(0, "nothing")->data(), nullptr);
}

TEST(MemoryTest, SomeMemoryIsAvailable) {
  const auto bytes = AvailableMemoryBytes();
  ASSERT_TRUE(bytes.ok()) << bytes.status();
  EXPECT_GT(*bytes, 1U << 20U);
}

TEST(RowOrderTest, GroupsRowsByWidthAndActivations) {
  RowOrder order(16);
  order.Build({{8, 15, 0, 2}, {3, 8, 2, 1}, {16, 15, 3, 3}, {8, 15, 6, 1}, {3, 8, 8, 2}, {8, 8, 7, 1}});
  EXPECT_EQ(order.size(), 10);
  ASSERT_EQ(order.runs().size(), 4U);
  EXPECT_EQ(order.runs()[0].bits, 3);
  EXPECT_EQ(order.runs()[1].bits, 8);
  EXPECT_EQ(order.runs()[1].activation_bits, 8);
  EXPECT_EQ(order.runs()[2].bits, 8);
  EXPECT_EQ(order.runs()[2].activation_bits, 15);
  EXPECT_EQ(order.runs()[3].bits, 16);
  EXPECT_EQ(order.runs()[3].end, 10);
  const std::vector<int64_t> rows = {2, 8, 9, 7, 0, 1, 6, 3, 4, 5};
  for (int64_t slot = 0; slot < order.size(); ++slot) {
    EXPECT_EQ(order.row(slot), rows[static_cast<size_t>(slot)]);
    EXPECT_EQ(order.slot(order.row(slot)), slot);
  }
  EXPECT_EQ(order.bits(0), 3);
  EXPECT_EQ(order.bits(5), 8);
  EXPECT_EQ(order.activation_bits(3), 8);
  EXPECT_EQ(order.activation_bits(5), 15);
  order.Build({{4, 8, 0, 1}});
  EXPECT_EQ(order.size(), 1);
  EXPECT_EQ(order.runs().size(), 1U);
}

}  // namespace
}  // namespace flexquant::executor
