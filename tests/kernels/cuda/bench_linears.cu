// Times the linears of a Llama-3.1-8B decode step: a data-dependent chain of 32 x (qkv, o, gate_up, down) and lm_head
// over random records, in one CUDA graph, against a kernel that only reads the same memory.
//
// bench_linears [key=value ...]
//   batches=1,2,4  widths=3,4,5,6,8 (0: a random mix for each layer group, 1: for each layer group and row)
//   update=1: the table of widths is copied before every replay   pdl=0   portable=1   fine=1: 15-bit activations where
//   the executor uses them   kinds=0,1,2,3,4: only these linears   fused, parts, ctas, launch, stages, pace,
//   chunk, sets, keep (low columns): GemvTuning

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "kernels/cuda/bench_support.h"
#include "kernels/cuda/nested_gemv.h"
#include "tests/kernels/cuda/bench_model.cuh"

namespace flexquant::cuda {
namespace {

constexpr int kReplays = 10;
constexpr int kRepeats = 7;

using Options = std::map<std::string, std::vector<int>>;

int Get(const Options& options, const std::string& key, int fallback) {
  const auto it = options.find(key);
  return it == options.end() || it->second.empty() ? fallback : it->second[0];
}

GemvParams Params(const Model& model, const Options& options, int group, int rows) {
  GemvParams p;
  p.weights = model.matrices[static_cast<size_t>(group)];
  p.rows = rows;
  p.widths = model.widths + group * kMaxRows;
  p.workspace = model.workspace;
  p.dependent_launch = Get(options, "pdl", 1) != 0;
  p.portable = Get(options, "portable", 0) != 0;
  p.tuning.fused_rows = Get(options, "fused", -1);
  p.tuning.parts = Get(options, "parts", 0);
  p.tuning.ctas_per_sm = Get(options, "ctas", 0);
  p.tuning.launch_ctas = Get(options, "launch", 0);
  p.tuning.max_stages = Get(options, "stages", 0);
  p.tuning.pace = Get(options, "pace", 0);
  p.tuning.chunk_columns = Get(options, "chunk", 0);
  p.tuning.sets = Get(options, "sets", 0);
  p.tuning.keep_low_columns = Get(options, "keep", 0) != 0;
  const int kind = group == kGroups - 1 ? 4 : group % 4;
  const bool reads_hidden = kind != 1 && kind != 3;
  p.x = kind == 1 ? model.qkv : kind == 3 ? model.inner : model.hidden;
  p.ldx = kind == 1 ? kQkv : kind == 3 ? kInner : kHidden;
  p.norm_weight = reads_hidden ? model.norm : nullptr;
  p.norm_eps = 1e-5F;
  p.y = kind == 0 ? model.qkv : kind == 2 ? model.inner : kind == 4 ? model.logits : model.hidden;
  p.ldy = kind == 0 ? kQkv : kind == 2 ? kInner : kind == 4 ? kVocab : kHidden;
  p.epilogue = kind == 2 ? GemvEpilogue::kSiluMul : reads_hidden ? GemvEpilogue::kStore : GemvEpilogue::kAdd;
  const int fine = Get(options, "fine", 0);
  if (fine > 1) {
    p.fine_widths = static_cast<uint32_t>(fine);
  } else if (fine == 1 && kind != 1 && kind != 2) {
    p.fine_widths = 1U << 6 | 1U << 8;
  }
  return p;
}

bool Wanted(const Options& options, int group) {
  const auto it = options.find("kinds");
  const int kind = group == kGroups - 1 ? 4 : group % 4;
  return it == options.end() || std::count(it->second.begin(), it->second.end(), kind) != 0;
}

// Fills the table; the bytes a step reads with it.
double SetWidths(const Model& model, const Options& options, int width, int rows, std::mt19937& random) {
  static constexpr int kWidths[] = {3, 4, 5, 6, 8};
  double bytes = 0;
  for (int group = 0; group < kGroups; ++group) {
    const int mix = kWidths[random() % 5];
    int most = 0;
    for (int row = 0; row < kMaxRows; ++row) {
      const int bits = width == 0 ? mix : width == 1 ? kWidths[random() % 5] : width;
      model.host_widths[group * kMaxRows + row] = static_cast<uint8_t>(bits);
      most = row < rows ? std::max(most, bits) : most;
    }
    if (Wanted(options, group)) {
      bytes += static_cast<double>(model.matrices[static_cast<size_t>(group)].BytesRead(most));
    }
  }
  return bytes;
}

void CopyWidths(const Model& model) {
  CHECK_CUDA(
      cudaMemcpyAsync(model.widths, model.host_widths, kGroups * kMaxRows, cudaMemcpyHostToDevice, model.stream));
}

double Checksum(const Model& model, const Options& options, int rows) {
  const bool head = Wanted(options, kGroups - 1);
  std::vector<float> y(static_cast<size_t>(head ? kVocab : kHidden) * static_cast<size_t>(rows));
  CHECK_CUDA(
      cudaMemcpy(y.data(), head ? model.logits : model.hidden, y.size() * sizeof(float), cudaMemcpyDeviceToHost));
  double sum = 0;
  for (const float value : y) {
    sum += std::abs(static_cast<double>(value));
  }
  return sum / static_cast<double>(y.size());
}

void Run(const Model& model, const Options& options, double read) {
  std::mt19937 random(2);
  const std::vector<int> batches =
      options.count("batches") != 0 ? options.at("batches") : std::vector<int>{1, 2, 4, 8, 16, 32};
  const std::vector<int> widths =
      options.count("widths") != 0 ? options.at("widths") : std::vector<int>{3, 4, 5, 6, 8, 0};
  for (const int rows : batches) {
    cudaGraphExec_t exec = Capture(model.stream, [&](cudaStream_t stream) {
      for (int group = 0; group < kGroups; ++group) {
        if (Wanted(options, group)) {
          CHECK_CUDA(LaunchNestedGemv(Params(model, options, group, rows), stream));
        }
      }
    });
    for (const int width : widths) {
      const double bytes = SetWidths(model, options, width, rows, random);
      CopyWidths(model);
      const bool update = Get(options, "update", 0) != 0;
      const double ms = 1e-3 * Median(model.stream, kReplays, kRepeats, [&] {
                          if (update) {
                            CopyWidths(model);
                          }
                          CHECK_CUDA(cudaGraphLaunch(exec, model.stream));
                        });
      const double rate = bytes / ms * 1e-6;
      std::printf("batch %2d  bits %s  %7.3f ms  %6.3f GB  %6.0f GB/s  %5.1f %% of read-only  (mean |y| %.3f)\n", rows,
                  width == 0   ? "mix"
                  : width == 1 ? "row"
                               : std::to_string(width).append("  ").c_str(),
                  ms, bytes * 1e-9, rate, 100.0 * rate / read, Checksum(model, options, rows));
      std::fflush(stdout);
    }
    CHECK_CUDA(cudaGraphExecDestroy(exec));
  }
}

Options Parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    const size_t equals = argument.find('=');
    std::stringstream list(equals == std::string::npos ? "1" : argument.substr(equals + 1));
    std::vector<int>& values = options[argument.substr(0, equals)];
    for (std::string item; std::getline(list, item, ',');) {
      values.push_back(std::stoi(item));
    }
  }
  return options;
}

}  // namespace
}  // namespace flexquant::cuda

// Several option sets, separated by "--", run over one model.
int main(int argc, char** argv) {
  cudaDeviceProp properties{};
  CHECK_CUDA(cudaGetDeviceProperties(&properties, 0));
  const flexquant::cuda::Model model = flexquant::cuda::MakeModel();
  const double read = 1e3 * flexquant::cuda::ReadBandwidth(model.data, model.bytes);
  std::printf("%s, %d SMs; %.2f GB of records; read-only kernel %.0f GB/s\n", properties.name,
              properties.multiProcessorCount, static_cast<double>(model.bytes) * 1e-9, read);
  for (int begin = 1; begin <= argc;) {
    const int end = static_cast<int>(std::find(argv + begin, argv + argc, std::string("--")) - argv);
    std::printf("#");
    for (int i = begin; i < end; ++i) {
      std::printf(" %s", argv[i]);
    }
    std::printf("\n");
    flexquant::cuda::Run(model, flexquant::cuda::Parse(end - begin + 1, argv + begin - 1), read);
    begin = end + 1;
    if (end >= argc) {
      break;
    }
  }
  return 0;
}
