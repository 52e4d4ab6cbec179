#include "executor/tensor_parallel/store_share.h"

#include <cstring>

#include "common/store/nested_quantizer.h"
#include "gtest/gtest.h"
#include "tests/executor/test_model.h"

namespace flexquant::executor {
namespace {

// `share` has columns `cols` of `whole`'s rows `rows`, at every precision and as reference.
void ExpectCopied(const NestedMatrix& share, const NestedMatrix& whole, const std::vector<Range>& rows, Range cols) {
  ASSERT_EQ(share.cols, cols.size());
  int64_t row = 0;
  for (const Range& range : rows) {
    for (int64_t from = range.begin; from < range.end; ++from, ++row) {
      for (const int bits : kPrecisions) {
        std::vector<float> expected(static_cast<size_t>(whole.cols));
        std::vector<float> found(static_cast<size_t>(share.cols));
        DequantizeRow(whole, from, bits, absl::MakeSpan(expected));
        DequantizeRow(share, row, bits, absl::MakeSpan(found));
        ASSERT_EQ(found, std::vector<float>(expected.begin() + cols.begin, expected.begin() + cols.end))
            << "row " << from << " at " << bits << " bits";
      }
      if (cols.size() == 0) {
        continue;  // no memory to compare
      }
      const auto bytes = share.reference_dtype == Dtype::kF32 ? 4 : 2;
      ASSERT_EQ(std::memcmp(static_cast<const uint8_t*>(share.reference) + row * share.cols * bytes,
                            static_cast<const uint8_t*>(whole.reference) + (from * whole.cols + cols.begin) * bytes,
                            static_cast<size_t>(share.cols * bytes)),
                0)
          << "reference of row " << from;
    }
  }
  EXPECT_EQ(share.rows, row);
}

TEST(MatrixShareTest, RowsAndColumnsAreThoseOfTheWhole) {
  const auto model = TestModel::Random();
  const NestedMatrix& whole = model->store().block(0).gate_up;
  const std::vector<std::vector<Range>> rows = {
      {{0, whole.rows}}, {{16, 48}}, {{3, 20}, {32, 64}, {64, 65}}, {{whole.rows - 1, whole.rows}}};
  for (const auto& ranges : rows) {
    for (const Range cols : {Range{0, whole.cols}, Range{32, whole.cols}, Range{0, 40}, Range{32, 33}}) {
      const auto share = MatrixShare::Copy(whole, ranges, cols);
      ASSERT_TRUE(share.ok()) << share.status();
      ExpectCopied(share->matrix(), whole, ranges, cols);
    }
  }
}

TEST(MatrixShareTest, RowsAreViewed) {
  const auto model = TestModel::Random();
  const NestedMatrix& whole = model->store().embedding();
  ExpectCopied(RowsOf(whole, {16, whole.rows}), whole, {{16, whole.rows}}, {0, whole.cols});
  ExpectCopied(RowsOf(whole, {0, 16}), whole, {{0, 16}}, {0, whole.cols});
}

// What is copied for all ranks is the blocks' matrices, once, as far as tiles and groups allow.
TEST(StoreShareTest, RanksShareTheWeights) {
  const auto model = TestModel::Random();
  const ModelStore& whole = model->store();
  const ModelConfig& config = whole.config();
  for (const int ranks : TensorParallelSizes(config)) {
    const auto shards = CutModel(config, whole.group_size(), ranks);
    ASSERT_TRUE(shards.ok()) << shards.status();
    for (const Shard& shard : *shards) {
      const auto share = StoreShare::Load(whole, shard);
      ASSERT_TRUE(share.ok()) << share.status();
      const ModelStore& store = (*share)->store();
      uint64_t expected = 0;
      for (int64_t layer = 0; layer < config.num_layers; ++layer) {
        const BlockWeights& block = store.block(layer);
        for (const NestedMatrix* w : {&block.qkv, &block.o, &block.gate_up, &block.down}) {
          expected += w->BytesRead(8) + w->BytesRead(kReferencePrecision);
        }
        EXPECT_EQ(block.qkv.rows, (shard.heads.size() + 2 * shard.kv_heads.size()) * config.head_dim);
        EXPECT_EQ(block.o.cols, shard.o_cols.size());
        EXPECT_EQ(block.gate_up.rows, 2 * shard.inner.size());
        EXPECT_EQ(block.down.cols, shard.down_cols.size());
        ExpectCopied(block.o, whole.block(layer).o, {{0, config.hidden_size}}, shard.o_cols);
      }
      EXPECT_EQ((*share)->bytes(), expected) << "rank " << shard.rank << " of " << ranks;
      EXPECT_EQ(store.lm_head().rows, shard.vocab.size());
    }
  }
}

TEST(StoreShareTest, BiasesOfSumsAreRankZeros) {
  ModelConfig config = FakeModelSource::TinyConfig();
  const std::vector<float> hidden(static_cast<size_t>(config.hidden_size), 2.0F);
  std::vector<float> gate_up(static_cast<size_t>(2 * config.intermediate_size));
  for (size_t i = 0; i < gate_up.size(); ++i) {
    gate_up[i] = static_cast<float>(i);
  }
  const auto shards = CutModel(config, 32, 2);
  ASSERT_TRUE(shards.ok()) << shards.status();
  EXPECT_EQ(BiasShare(hidden, LayerGroupKind::kO, config, (*shards)[0]), hidden);
  EXPECT_TRUE(BiasShare(hidden, LayerGroupKind::kDown, config, (*shards)[1]).empty());
  const Range inner = (*shards)[1].inner;
  const std::vector<float> part = BiasShare(gate_up, LayerGroupKind::kGateUp, config, (*shards)[1]);
  ASSERT_EQ(part.size(), static_cast<size_t>(2 * inner.size()));
  EXPECT_EQ(part.front(), static_cast<float>(inner.begin));
  EXPECT_EQ(part.back(), static_cast<float>(config.intermediate_size + inner.end - 1));
}

}  // namespace
}  // namespace flexquant::executor
