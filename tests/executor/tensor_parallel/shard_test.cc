#include "executor/tensor_parallel/shard.h"

#include <algorithm>
#include <vector>

#include "common/nested_matrix.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace flexquant::executor {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

struct Shape {
  const char* name;
  int64_t hidden, intermediate, heads, kv_heads, head_dim, vocab;
};

constexpr Shape kShapes[] = {
    {"Llama-3.1-8B", 4096, 14336, 32, 8, 128, 128256},
    {"Llama-3.1-70B", 8192, 28672, 64, 8, 128, 128256},
    {"Qwen2.5-0.5B", 896, 4864, 14, 2, 64, 151936},
    {"Qwen2.5-7B", 3584, 18944, 28, 4, 128, 152064},
    {"Mistral-7B", 4096, 14336, 32, 8, 128, 32768},
    {"SmolLM2-135M", 576, 1536, 9, 3, 64, 49152},
    {"stories260K", 64, 172, 8, 4, 8, 512},
};

ModelConfig Config(const Shape& shape) {
  ModelConfig config;
  config.hidden_size = shape.hidden;
  config.intermediate_size = shape.intermediate;
  config.num_heads = shape.heads;
  config.num_kv_heads = shape.kv_heads;
  config.head_dim = shape.head_dim;
  config.vocab_size = shape.vocab;
  return config;
}

std::vector<Shard> Cut(const ModelConfig& config, int64_t group_size, int ranks) {
  auto shards = CutModel(config, group_size, ranks);
  EXPECT_TRUE(shards.ok()) << shards.status();
  return shards.ok() ? *std::move(shards) : std::vector<Shard>();
}

// Counts how often each element of [0, size) is in a range.
class Coverage {
 public:
  explicit Coverage(int64_t size) : counts_(static_cast<size_t>(size)) {}
  void Add(Range range) {
    ASSERT_GE(range.begin, 0);
    ASSERT_LE(range.begin, range.end);
    ASSERT_LE(range.end, static_cast<int64_t>(counts_.size()));
    for (int64_t i = range.begin; i < range.end; ++i) {
      ++counts_[static_cast<size_t>(i)];
    }
  }
  bool Each(int times) const {
    return std::all_of(counts_.begin(), counts_.end(), [times](int count) { return count == times; });
  }

 private:
  std::vector<int> counts_;
};

TEST(ShardTest, EveryRowBelongsToOneRank) {
  for (const Shape& shape : kShapes) {
    const ModelConfig config = Config(shape);
    for (const int64_t group_size : {32, 64, 128}) {
      for (const int ranks : TensorParallelSizes(config)) {
        SCOPED_TRACE(testing::Message() << shape.name << ", groups of " << group_size << ", " << ranks << " ranks");
        Coverage heads(shape.heads);
        Coverage kv_heads(shape.kv_heads);
        Coverage inner(shape.intermediate);
        Coverage vocab(shape.vocab);
        Coverage o_cols(shape.heads * shape.head_dim);
        Coverage down_cols(shape.intermediate);
        for (const Shard& shard : Cut(config, group_size, ranks)) {
          heads.Add(shard.heads);
          kv_heads.Add(shard.kv_heads);
          inner.Add(shard.inner);
          vocab.Add(shard.vocab);
          o_cols.Add(shard.o_cols);
          down_cols.Add(shard.down_cols);
          EXPECT_FALSE(shard.heads.size() == 0 || shard.kv_heads.size() == 0 || shard.inner.size() == 0 ||
                       shard.vocab.size() == 0);
          EXPECT_EQ(shard.o_cols.begin % group_size, 0);
          EXPECT_EQ(shard.down_cols.begin % group_size, 0);
        }
        EXPECT_TRUE(heads.Each(1));
        EXPECT_TRUE(kv_heads.Each(ranks <= shape.kv_heads ? 1 : ranks / static_cast<int>(shape.kv_heads)));
        EXPECT_TRUE(inner.Each(1));
        EXPECT_TRUE(vocab.Each(1));
        EXPECT_TRUE(o_cols.Each(1));
        EXPECT_TRUE(down_cols.Each(1));
      }
    }
  }
}

// A query head's keys are those of its own KV head, which are on the same rank.
TEST(ShardTest, HeadsStayWithTheirKeys) {
  for (const Shape& shape : kShapes) {
    const ModelConfig config = Config(shape);
    const int64_t sharing = shape.heads / shape.kv_heads;
    for (const int ranks : TensorParallelSizes(config)) {
      for (const Shard& shard : Cut(config, 64, ranks)) {
        EXPECT_EQ(shard.heads.begin / sharing, shard.kv_heads.begin) << shape.name << ", " << ranks << " ranks";
        EXPECT_EQ((shard.heads.end - 1) / sharing, shard.kv_heads.end - 1) << shape.name << ", " << ranks << " ranks";
        EXPECT_EQ(shard.heads.size() % shard.kv_heads.size(), 0);
      }
    }
  }
}

TEST(ShardTest, ColumnsAreThoseOfTheRowsWhereTheModelAllowsIt) {
  for (const Shape& shape : kShapes) {
    const ModelConfig config = Config(shape);
    for (const int ranks : {2, 4}) {
      if (shape.head_dim % 64 != 0 || !CutModel(config, 64, ranks).ok()) {
        continue;
      }
      for (const Shard& shard : Cut(config, 64, ranks)) {
        EXPECT_FALSE(shard.share_attended || shard.share_inner) << shape.name;
        EXPECT_EQ(shard.o_cols.begin, shard.heads.begin * shape.head_dim) << shape.name;
        EXPECT_EQ(shard.down_cols, shard.inner) << shape.name;
        EXPECT_EQ(shard.vocab.begin % kTileRows, 0) << shape.name;
      }
    }
  }
}

// Heads of 8 end inside groups of 64, of which there is one; 172 rows of gate are three groups.
TEST(ShardTest, GroupsAreNotCut) {
  std::vector<int64_t> o;
  std::vector<int64_t> inner;
  std::vector<int64_t> down;
  for (const Shard& shard : Cut(Config(kShapes[6]), 64, 4)) {
    EXPECT_TRUE(shard.share_attended);
    EXPECT_TRUE(shard.share_inner);
    o.push_back(shard.o_cols.size());
    inner.push_back(shard.inner.size());
    down.push_back(shard.down_cols.size());
  }
  EXPECT_THAT(o, ElementsAre(0, 0, 0, 64));
  EXPECT_THAT(inner, ElementsAre(32, 64, 32, 44));
  EXPECT_THAT(down, ElementsAre(0, 64, 64, 44));
}

TEST(ShardTest, UnevenKvHeadsGoWhole) {
  const std::vector<Shard> shards = Cut(Config(kShapes[5]), 64, 2);
  ASSERT_EQ(shards.size(), 2U);
  EXPECT_EQ(shards[0].kv_heads, (Range{0, 1}));
  EXPECT_EQ(shards[0].heads, (Range{0, 3}));
  EXPECT_EQ(shards[1].kv_heads, (Range{1, 3}));
  EXPECT_EQ(shards[1].heads, (Range{3, 9}));
  const ModelConfig config = shards[1].Config(Config(kShapes[5]));
  EXPECT_EQ(config.q_size(), 6 * 64);
  EXPECT_EQ(config.kv_size(), 2 * 64);
  EXPECT_EQ(config.intermediate_size, 768);
}

TEST(ShardTest, RefusalsSayWhatWouldDo) {
  const auto shards = CutModel(Config(kShapes[5]), 64, 4);
  EXPECT_EQ(shards.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(
      std::string(shards.status().message()),
      AllOf(HasSubstr("of 4 does not fit a model of 9 heads and 3 KV heads"), HasSubstr("allowed: 1, 2, 3, 6, 9")));
  for (const int ranks : {0, -1, 65}) {
    EXPECT_EQ(CutModel(Config(kShapes[1]), 64, ranks).status().code(), absl::StatusCode::kInvalidArgument) << ranks;
  }
  EXPECT_THAT(TensorParallelSizes(Config(kShapes[1])), ElementsAre(1, 2, 3, 4, 5, 6, 7, 8, 16, 24, 32, 40, 48, 56, 64));
}

}  // namespace
}  // namespace flexquant::executor
