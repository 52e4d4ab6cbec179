// Times of the kernels beside the decode GEMV, in the shapes of Llama-3-8B, each against a ceiling measured in the same
// process: read-only bandwidth for what moves bytes, cuBLAS for the prefill product.

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "kernels/cuda/attention_decode.h"
#include "kernels/cuda/attention_prefill.h"
#include "kernels/cuda/dequantize.h"
#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/prefill_gemm.h"
#include "kernels/cuda/rope_kv.h"
#include "kernels/cuda/sampling.h"
#include "tests/kernels/cuda/bench_cublas.cuh"
#include "tests/kernels/cuda/bench_harness.cuh"

namespace flexquant::cuda {
namespace {

constexpr int kHeads = 32;
constexpr int kKvHeads = 8;
constexpr int kHeadDim = 128;
constexpr int kBlockTokens = 16;

void BenchDecode(uint16_t* memory, size_t bytes, double bandwidth, bool shuffled) {
  std::printf("decode attention, %d heads, %d kv heads of %d, PDL graph over distinct layers\n", kHeads, kKvHeads,
              kHeadDim);
  const float* q = Randoms<float>(64 * kHeads * kHeadDim);
  auto* out = Allocate<float>(64 * kHeads * kHeadDim);
  for (const auto& [rows, context] : std::vector<std::pair<int, int>>{{1, 512},
                                                                      {1, 1024},
                                                                      {1, 2048},
                                                                      {1, 4096},
                                                                      {1, 8192},
                                                                      {1, 16384},
                                                                      {1, 32768},
                                                                      {8, 4096},
                                                                      {32, 1024},
                                                                      {64, 4096}}) {
    const int per_sequence = context / kBlockTokens;
    const size_t block = static_cast<size_t>(kKvHeads) * kBlockTokens * kHeadDim;
    const size_t layer = block * static_cast<size_t>(per_sequence * rows);  // elements of keys
    const int layers = static_cast<int>(std::min<size_t>(32, bytes / (4 * layer)));
    std::vector<uint32_t> tables(static_cast<size_t>(per_sequence) * static_cast<size_t>(rows));
    std::iota(tables.begin(), tables.end(), 0U);
    if (shuffled) {
      std::shuffle(tables.begin(), tables.end(), std::mt19937(1));
    }
    AttentionDecodeParams p;
    p.num_heads = kHeads;
    p.num_kv_heads = kKvHeads;
    p.head_dim = kHeadDim;
    p.block_tokens = kBlockTokens;
    p.scale = 0.088F;
    p.q = q;
    p.out = out;
    p.q_stride = p.out_stride = kHeads * kHeadDim;
    p.block_tables = Upload(tables);
    p.block_table_stride = per_sequence;
    p.positions = Upload(std::vector<int32_t>(static_cast<size_t>(rows), context - 1));
    p.max_rows = rows;
    std::printf("  rows %2d context %5d:", rows, context);
    for (const int variant : {16, 32, 32 + 1, 64}) {
      const int splits = variant & ~1;
      p.max_splits = splits;
      p.context_ready = variant % 2 != 0;
      p.workspace = Allocate<uint8_t>(AttentionDecodeWorkspaceBytes(p));
      const double us = Time(
          [&](cudaStream_t s) {
            for (int i = 0; i < layers; ++i) {
              p.k_cache = memory + 2 * static_cast<size_t>(i) * layer;
              p.v_cache = p.k_cache + layer;
              CHECK_CUDA(LaunchAttentionDecode(p, s, true));
            }
          },
          layers);
      const double rate = 4.0 * static_cast<double>(layer) / us * 1e-6;
      std::printf("  splits %d%s: %7.2f us %5.2f TB/s %3.0f%%", splits, p.context_ready ? " ready" : "", us, rate,
                  100 * rate / bandwidth);
      CHECK_CUDA(cudaFree(p.workspace));
    }
    std::printf("\n");
  }
}

void BenchPrefillAttention(const uint16_t* memory) {
  std::printf("prefill attention, one sequence, 32 heads of 128\n");
  const float* q = Randoms<float>(size_t{8192} * kHeads * kHeadDim);
  auto* out = Allocate<uint16_t>(size_t{8192} * kHeads * kHeadDim);
  std::vector<uint32_t> table(32768 / kBlockTokens);
  std::iota(table.begin(), table.end(), 0U);
  const size_t layer = table.size() * kKvHeads * kBlockTokens * kHeadDim;
  AttentionPrefillParams p;
  p.num_heads = kHeads;
  p.num_kv_heads = kKvHeads;
  p.head_dim = kHeadDim;
  p.block_tokens = kBlockTokens;
  p.scale = 0.088F;
  p.q = q;
  p.out_half = out;
  p.q_stride = p.out_stride = kHeads * kHeadDim;
  p.k_cache = memory;
  p.v_cache = memory + layer;
  p.block_tables = Upload(table);
  p.block_table_stride = static_cast<int64_t>(table.size());
  p.max_sequences = 1;
  for (const auto& [start, rows] : std::vector<std::pair<int, int>>{
           {0, 128}, {0, 512}, {0, 2048}, {0, 8192}, {2048, 512}, {8192, 512}, {8192, 2048}}) {
    p.row_starts = Upload(std::vector<int32_t>{0, rows});
    p.start_positions = Upload(std::vector<int32_t>{start});
    p.max_rows = rows;
    const double us = Time([&](cudaStream_t s) { CHECK_CUDA(LaunchAttentionPrefill(p, s)); }, 1);
    const double pairs = static_cast<double>(rows) * (start + 0.5 * (rows + 1));
    std::printf("  start %5d rows %5d: %8.1f us %6.1f TFLOP/s\n", start, rows, us,
                4.0 * pairs * kHeadDim * kHeads / us * 1e-6);
  }
}

void BenchGemm() {
  std::printf("prefill product, 8 bits; cuBLAS alone with the whole weights in fp16 and bf16\n");
  const Cublas cublas;
  auto* workspace = Allocate<uint8_t>(64 << 20);
  struct Shape {
    int64_t rows;
    int64_t cols;
    bool paired;
  };
  for (const Shape& shape : {Shape{6144, 4096, false}, Shape{28672, 4096, true}, Shape{4096, 14336, false}}) {
    DeviceNestedMatrix matrix{nullptr, shape.rows, shape.cols, 64, shape.paired};
    matrix.data = reinterpret_cast<uint8_t*>(Randoms<__half>(static_cast<size_t>(matrix.bytes() / 2), 0.02F));
    const void* weights = Randoms<__half>(static_cast<size_t>(shape.rows * shape.cols), 0.02F);
    const void* bf16 = Randoms<__nv_bfloat16>(static_cast<size_t>(shape.rows * shape.cols), 0.02F);
    const void* x = Randoms<__half>(static_cast<size_t>(2048 * shape.cols));
    const void* x_bf16 = Randoms<__nv_bfloat16>(static_cast<size_t>(2048 * shape.cols));
    auto* y = Allocate<float>(static_cast<size_t>(2048 * shape.rows));
    for (const int m : {64, 256, 512, 1024, 2048}) {
      const double flops = 2.0 * static_cast<double>(m * shape.rows * shape.cols);
      std::printf("  %5ld x %5ld m %4d:", shape.rows, shape.cols, m);
      for (const bool half : {true, false}) {
        const cudaDataType_t type = half ? CUDA_R_16F : CUDA_R_16BF;
        const double us = TimeCublas(
            cublas, {shape.rows, shape.cols, m, type, half ? weights : bf16, 1, half ? x : x_bf16, CUDA_R_32F, y});
        std::printf("  %s %7.1f us %3.0f TF", half ? "fp16" : "bf16", us, flops / us * 1e-6);
      }
      if (m == 64) {
        DequantizeParams d;
        d.matrix = matrix;
        d.tile_end = std::min<int64_t>(matrix.tiles(), (32 << 20) / (kTileRows * shape.cols * 2));
        d.out = reinterpret_cast<uint16_t*>(workspace);
        d.stride = shape.cols;
        d.paired_offset = d.tile_end * 8;
        const double us = Time([&](cudaStream_t s) { CHECK_CUDA(LaunchDequantize(d, s)); }, 1);
        const double weights_done = static_cast<double>(d.tile_end * kTileRows * shape.cols);
        std::printf("  dequantise 32 MiB %5.1f us %.2f TB/s", us, weights_done * 3.06 / us * 1e-6);
      }
      PrefillGemmParams p;
      p.matrix = matrix;
      p.x = static_cast<const uint16_t*>(x);
      p.x_stride = shape.cols;
      p.num_rows = m;
      p.y = y;
      p.y_stride = shape.rows;
      p.workspace = workspace;
      for (const int mib : {16, 32, 64}) {
        p.workspace_bytes = static_cast<size_t>(mib) << 20;
        const double us = Time([&](cudaStream_t s) { CHECK_CUDA(LaunchPrefillGemm(p, cublas.On(s), s)); }, 1);
        std::printf("  %d MiB %7.1f us %3.0f TF", mib, us, flops / us * 1e-6);
      }
      std::printf("\n");
    }
  }
}

void BenchSampling() {
  std::printf("sampling, vocabulary 128256, PDL graph of 8\n");
  const int vocab = 128256;
  const float* logits = Randoms<float>(size_t{64} * vocab, 3.0F);
  auto* results = Allocate<RowSample>(64);
  RowSampling greedy;
  RowSampling top = greedy;
  top.top_logprobs = 20;
  RowSampling plain = greedy;
  plain.temperature = 1;
  RowSampling nucleus = plain;
  nucleus.top_p = 0.9F;
  RowSampling both = nucleus;
  both.temperature = 0.7F;
  both.top_k = 40;
  const std::pair<const char*, RowSampling> cases[] = {
      {"greedy", greedy}, {"greedy, top 20", top}, {"temperature", plain}, {"top-p", nucleus}, {"top-k + top-p", both}};
  for (const auto& [name, settings] : cases) {
    std::printf("  %-16s", name);
    for (const int rows : {1, 8, 64}) {
      SamplingParams p;
      p.logits = logits;
      p.stride = vocab;
      p.vocab = vocab;
      p.settings = Upload(std::vector<RowSampling>(static_cast<size_t>(rows), settings));
      p.results = results;
      p.max_rows = rows;
      p.workspace = Allocate<uint8_t>(SamplingWorkspaceBytes(rows, vocab) + 1);
      const double us = Time(
          [&](cudaStream_t s) {
            for (int i = 0; i < 8; ++i) {
              CHECK_CUDA(LaunchSampling(p, s, true));
            }
          },
          8);
      std::printf("  rows %2d: %6.1f us", rows, us);
    }
    std::printf("\n");
  }
}

}  // namespace
}  // namespace flexquant::cuda

// Sections by letter: d(ecode), o (decode with blocks in order), s(ampling), p(refill attention), g(emm); all without
// an argument.
int main(int argc, char** argv) {
  const std::string sections = argc > 1 ? argv[1] : "dspg";
  const auto wanted = [&](char section) { return sections.find(section) != std::string::npos; };
  using namespace flexquant::cuda;  // NOLINT
  const size_t bytes = size_t{4} << 30;
  auto* memory = reinterpret_cast<uint16_t*>(Randoms<__half>(bytes / 2));
  cudaDeviceProp properties;
  CHECK_CUDA(cudaGetDeviceProperties(&properties, 0));
  const double bandwidth = ReadBandwidth(memory, bytes);
  std::printf("%s, %d multiprocessors, read-only %.2f TB/s\n", properties.name, properties.multiProcessorCount,
              bandwidth);
  if (wanted('d')) {
    BenchDecode(memory, bytes, bandwidth, true);
  }
  if (wanted('o')) {
    BenchDecode(memory, bytes, bandwidth, false);
  }
  if (wanted('s')) {
    BenchSampling();
  }
  if (wanted('p')) {
    BenchPrefillAttention(memory);
  }
  if (wanted('g')) {
    BenchGemm();
  }
  return 0;
}
