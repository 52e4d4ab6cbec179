#include "common/store/channel_scales.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "absl/types/span.h"
#include "common/check.h"
#include "common/status_macros.h"
#include "common/store/group_fit.h"
#include "common/store/package_layout.h"
#include "common/thread_pool.h"

namespace flexquant {
namespace {

// Rows of a matrix that a candidate is judged by.
constexpr int64_t kSampleRows = 64;
constexpr int kAlphas = 10;  // exponents 0, 1/10, ..., 1
// Mean squares below this share of the largest count as this; a channel may never be used.
constexpr float kLeastShare = 1e-8F;
constexpr float kTiny = 1e-30F;
// Far from where a bfloat16 or a half could over- or underflow.
constexpr float kMaxLog = 6;

// The channel of v that enters a column of o.
int64_t KvChannel(const ModelConfig& config, int64_t column) {
  const int64_t sharing = config.num_heads / config.num_kv_heads;
  return column / config.head_dim / sharing * config.head_dim + column % config.head_dim;
}

// Mean of the columns that share a scale.
std::vector<float> KvMeanSquare(const ModelConfig& config, absl::Span<const float> mean_square) {
  std::vector<float> mean(static_cast<size_t>(config.kv_size()));
  const auto sharing = static_cast<float>(config.num_heads / config.num_kv_heads);
  for (size_t j = 0; j < mean_square.size(); ++j) {
    mean[static_cast<size_t>(KvChannel(config, static_cast<int64_t>(j)))] += mean_square[j] / sharing;
  }
  return mean;
}

// One scale a column of the matrix.
std::vector<float> ColumnScales(const ModelConfig& config, LayerGroupKind kind, const std::vector<float>& scales) {
  if (kind != LayerGroupKind::kO) {
    return scales;
  }
  std::vector<float> columns(static_cast<size_t>(config.q_size()));
  for (size_t j = 0; j < columns.size(); ++j) {
    columns[j] = scales[static_cast<size_t>(KvChannel(config, static_cast<int64_t>(j)))];
  }
  return columns;
}

// rms^alpha over its geometric mean, to the nearest power of two.
std::vector<float> Candidate(absl::Span<const float> mean_square, float alpha) {
  const float largest = *std::max_element(mean_square.begin(), mean_square.end());
  std::vector<float> logs(mean_square.size());
  std::transform(mean_square.begin(), mean_square.end(), logs.begin(),
                 [&](float square) { return alpha / 2 * std::log2(std::max(square, largest * kLeastShare + kTiny)); });
  const float mean = std::accumulate(logs.begin(), logs.end(), 0.0F) / static_cast<float>(logs.size());
  std::vector<float> scales(logs.size());
  std::transform(logs.begin(), logs.end(), scales.begin(),
                 [&](float log) { return std::exp2(std::clamp(std::round(log - mean), -kMaxLog, kMaxLog)); });
  return scales;
}

class Search {
 public:
  Search(ModelSource& source, const ActivationStatistics& statistics, const ChannelScaleOptions& options)
      : config_(source.config()),
        source_(source),
        statistics_(statistics),
        options_(options),
        pool_(options.num_threads) {}

  absl::StatusOr<std::vector<ChannelScales>> Run() {
    std::vector<ChannelScales> result(static_cast<size_t>(config_.num_layers));
    const std::vector<MatrixSpec> matrices = PackageMatrices(config_);
    for (int64_t layer = 0; layer < config_.num_layers; ++layer) {
      for (int kind = 0; kind < kLayerGroupsPerBlock; ++kind) {
        if (options_.cancelled && options_.cancelled()) {
          return absl::CancelledError("conversion cancelled; nothing was left behind");
        }
        FQ_RETURN_IF_ERROR(SearchGroup(matrices[static_cast<size_t>(layer * kLayerGroupsPerBlock + kind)], layer,
                                       static_cast<LayerGroupKind>(kind),
                                       result[static_cast<size_t>(layer)][static_cast<size_t>(kind)]));
      }
      if (options_.progress) {
        options_.progress(static_cast<uint64_t>(layer + 1), static_cast<uint64_t>(config_.num_layers));
      }
    }
    return result;
  }

 private:
  absl::Status SearchGroup(const MatrixSpec& spec, int64_t layer, LayerGroupKind kind, std::vector<float>& out) {
    const std::vector<float>& mean_square =
        statistics_.mean_square[static_cast<size_t>(LayerGroupIndex(static_cast<int>(layer), kind))];
    const std::vector<float> channels = kind == LayerGroupKind::kO ? KvMeanSquare(config_, mean_square) : mean_square;
    FQ_ASSIGN_OR_RETURN(const std::vector<float> rows, SampleRows(spec));
    double least = std::numeric_limits<double>::infinity();
    for (int step = 0; step <= kAlphas; ++step) {
      std::vector<float> scales = Candidate(channels, static_cast<float>(step) / kAlphas);
      const double cost = Cost(rows, mean_square, ColumnScales(config_, kind, scales));
      if (cost < least) {
        least = cost;
        out = std::move(scales);
      }
    }
    return absl::OkStatus();
  }

  absl::StatusOr<std::vector<float>> SampleRows(const MatrixSpec& spec) {
    std::vector<float> sample;
    const int64_t count = std::min(spec.rows, kSampleRows);
    int64_t begin = 0;
    int64_t next = 0;
    for (const SourcePart& part : spec.parts) {
      FQ_ASSIGN_OR_RETURN(const std::vector<float> tensor, source_.ReadTensor(part.name, part.rows, spec.cols));
      for (; next < count && next * spec.rows / count < begin + part.rows; ++next) {
        const float* row = tensor.data() + (next * spec.rows / count - begin) * spec.cols;
        sample.insert(sample.end(), row, row + spec.cols);
      }
      begin += part.rows;
    }
    return sample;
  }

  double Cost(const std::vector<float>& rows, const std::vector<float>& mean_square, const std::vector<float>& scales) {
    const size_t cols = scales.size();
    const auto group_size = static_cast<size_t>(options_.group_size);
    std::vector<float> importance(cols);
    for (size_t j = 0; j < cols; ++j) {
      importance[j] = mean_square[j] / (scales[j] * scales[j]);
    }
    std::vector<double> costs(rows.size() / cols);
    pool_.ParallelFor(static_cast<int64_t>(costs.size()), [&](int64_t begin, int64_t end, int /*thread*/) {
      std::vector<float> row(cols);
      for (auto n = static_cast<size_t>(begin); n < static_cast<size_t>(end); ++n) {
        std::transform(scales.begin(), scales.end(), rows.begin() + static_cast<std::ptrdiff_t>(n * cols), row.begin(),
                       std::multiplies<>());
        for (size_t k = 0; k < cols; k += group_size) {
          costs[n] += static_cast<double>(FitGroup(absl::MakeConstSpan(row).subspan(k, group_size),
                                                   absl::MakeConstSpan(importance).subspan(k, group_size))
                                              .cost);
        }
      }
    });
    return std::accumulate(costs.begin(), costs.end(), 0.0);
  }

  const ModelConfig& config_;
  ModelSource& source_;
  const ActivationStatistics& statistics_;
  const ChannelScaleOptions& options_;
  ThreadPool pool_;
};

class Folded : public ModelSource {
 public:
  Folded(ModelSource& source, std::vector<ChannelScales> scales) : source_(source), scales_(std::move(scales)) {}

  const ModelConfig& config() const override { return source_.config(); }
  bool HasTensor(const std::string& name) const override { return source_.HasTensor(name); }
  Dtype ReferenceDtype() const override { return source_.ReferenceDtype(); }
  absl::Status SaveTokenizer(const std::string& folder) const override { return source_.SaveTokenizer(folder); }
  std::string Description() const override { return source_.Description(); }

  absl::StatusOr<std::vector<float>> ReadTensor(const std::string& name, int64_t rows, int64_t cols) override {
    FQ_ASSIGN_OR_RETURN(std::vector<float> tensor, source_.ReadTensor(name, rows, cols));
    absl::string_view rest = name;
    if (!absl::ConsumePrefix(&rest, "model.layers.")) {
      return tensor;
    }
    const std::pair<absl::string_view, absl::string_view> parts = absl::StrSplit(rest, absl::MaxSplits('.', 1));
    size_t layer = 0;
    FQ_CHECK(absl::SimpleAtoi(parts.first, &layer) && layer < scales_.size());
    const auto scales = [&](LayerGroupKind kind) -> const std::vector<float>& {
      return scales_[layer][static_cast<size_t>(kind)];
    };
    const absl::string_view part = parts.second;
    if (part == "input_layernorm.weight") {
      DivideRows(scales(LayerGroupKind::kQkv), tensor);
    } else if (part == "post_attention_layernorm.weight") {
      DivideRows(scales(LayerGroupKind::kGateUp), tensor);
    } else if (absl::StartsWith(part, "self_attn.v_proj.")) {
      DivideRows(scales(LayerGroupKind::kO), tensor);
    } else if (absl::StartsWith(part, "mlp.up_proj.")) {
      DivideRows(scales(LayerGroupKind::kDown), tensor);
    }
    if (part == "self_attn.q_proj.weight" || part == "self_attn.k_proj.weight" || part == "self_attn.v_proj.weight") {
      MultiplyColumns(scales(LayerGroupKind::kQkv), tensor);
    } else if (part == "self_attn.o_proj.weight") {
      MultiplyColumns(ColumnScales(config(), LayerGroupKind::kO, scales(LayerGroupKind::kO)), tensor);
    } else if (part == "mlp.gate_proj.weight" || part == "mlp.up_proj.weight") {
      MultiplyColumns(scales(LayerGroupKind::kGateUp), tensor);
    } else if (part == "mlp.down_proj.weight") {
      MultiplyColumns(scales(LayerGroupKind::kDown), tensor);
    }
    return tensor;
  }

 private:
  // A matrix has whole rows for each scale, a vector one element.
  static void DivideRows(const std::vector<float>& scales, std::vector<float>& tensor) {
    FQ_CHECK(tensor.size() % scales.size() == 0);
    const size_t cols = tensor.size() / scales.size();
    for (size_t i = 0; i < tensor.size(); ++i) {
      tensor[i] /= scales[i / cols];
    }
  }
  static void MultiplyColumns(const std::vector<float>& scales, std::vector<float>& tensor) {
    for (size_t i = 0; i < tensor.size(); ++i) {
      tensor[i] *= scales[i % scales.size()];
    }
  }

  ModelSource& source_;
  const std::vector<ChannelScales> scales_;
};

void FoldMoments(const std::vector<float>& columns, InputMoments& moments) {
  for (int64_t block = 0; block < moments.num_blocks(); ++block) {
    const float* scales = columns.data() + moments.begin(block);
    const int64_t size = moments.size(block);
    for (int64_t j = 0; j < size; ++j) {
      float* const row = moments.row(block, j);
      for (int64_t k = 0; k < size; ++k) {
        row[k] /= scales[j] * scales[k];
      }
    }
  }
}

}  // namespace

absl::StatusOr<std::vector<ChannelScales>> FindChannelScales(ModelSource& source,
                                                             const ActivationStatistics& statistics,
                                                             const ChannelScaleOptions& options) {
  return Search(source, statistics, options).Run();
}

ActivationStatistics FoldStatistics(const ModelConfig& config, const std::vector<ChannelScales>& scales,
                                    ActivationStatistics statistics) {
  for (size_t group = 0; group + 1 < statistics.mean_square.size(); ++group) {
    const size_t kind = group % kLayerGroupsPerBlock;
    const std::vector<float> columns =
        ColumnScales(config, static_cast<LayerGroupKind>(kind), scales[group / kLayerGroupsPerBlock][kind]);
    for (size_t j = 0; j < columns.size(); ++j) {
      statistics.mean_square[group][j] /= columns[j] * columns[j];
    }
    if (!columns.empty() && group < statistics.moments.size()) {
      FoldMoments(columns, statistics.moments[group]);
    }
  }
  return statistics;
}

std::unique_ptr<ModelSource> FoldedSource(ModelSource& source, std::vector<ChannelScales> scales) {
  return std::make_unique<Folded>(source, std::move(scales));
}

}  // namespace flexquant
