// Times of the fused prefill product in the shapes of Llama-3-8B, beside cuBLAS in the same process.

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "kernels/cuda/prefill_fused.h"
#include "tests/kernels/cuda/bench_cublas.cuh"
#include "tests/kernels/cuda/bench_harness.cuh"

namespace flexquant::cuda {
namespace {

// One linear of Llama-3-8B alone, over copies of its weights that do not fit the L2 cache together.
struct FusedCase {
  const char* name;
  int64_t rows;
  int64_t cols;
  bool paired;
};

double TimeCublas(const Cublas& cublas, const FusedCase& c, int m, int copies, bool zeros) {
  const size_t weights = static_cast<size_t>(c.rows * c.cols) * static_cast<size_t>(copies);
  const auto inputs = static_cast<size_t>(m * c.cols);
  auto* w = zeros ? Allocate<__nv_bfloat16>(weights) : Randoms<__nv_bfloat16>(weights, 0.02F);
  auto* x = zeros ? Allocate<__nv_bfloat16>(inputs) : Randoms<__nv_bfloat16>(inputs);
  auto* y = Allocate<__nv_bfloat16>(static_cast<size_t>(m * c.rows));
  const double us = TimeCublas(cublas, {c.rows, c.cols, m, CUDA_R_16BF, w, copies, x, CUDA_R_16BF, y});
  for (__nv_bfloat16* each : {w, x, y}) {
    CHECK_CUDA(cudaFree(each));
  }
  return us;
}

double TimeFused(FusedGemmParams p, const uint8_t* memory, int copies, const FusedTuning& tuning) {
  p.tuning = tuning;
  return Time(
      [&](cudaStream_t s) {
        for (int i = 0; i < copies; ++i) {
          p.matrix.data = memory + static_cast<size_t>(i) * static_cast<size_t>(p.matrix.bytes());
          CHECK_CUDA(LaunchFusedGemm(p, s, true));
        }
      },
      copies);
}

void BenchFusedDivisions(const FusedGemmParams& p, const uint8_t* memory, int copies) {
  for (const int tokens : {64, 128, 256}) {
    if (tokens >= 2 * p.num_rows || 4 * tokens < p.num_rows) {
      continue;
    }
    std::printf("    block %3d, splits x share:", tokens);
    for (const int splits : {1, 2, 3, 4, 6, 8}) {
      for (const int share : {1, 2, 4}) {
        if (splits * share <= 8 && (splits <= 2 || p.num_rows <= 512)) {
          std::printf("  %dx%d %.1f", splits, share, TimeFused(p, memory, copies, {tokens, splits, share}));
        }
      }
    }
    std::printf("\n");
  }
}

void BenchFused(bool divisions) {
  std::printf(
      "fused prefill product, us a launch in a PDL graph, beside cuBLAS bf16 with random values and with zeros\n");
  const Cublas cublas;
  for (const FusedCase& c : {FusedCase{"qkv", 6144, 4096, false}, FusedCase{"o", 4096, 4096, false},
                             FusedCase{"gate_up", 28672, 4096, true}, FusedCase{"down", 4096, 14336, false}}) {
    FusedGemmParams p;
    p.matrix = {nullptr, c.rows, c.cols, 64, c.paired};
    p.epilogue = c.paired ? GemvEpilogue::kSiluMul : c.rows == 4096 ? GemvEpilogue::kAdd : GemvEpilogue::kStore;
    const int copies = static_cast<int>(std::max<int64_t>(1, (200 << 20) / p.matrix.bytes()));
    auto* memory = Allocate<uint8_t>(static_cast<size_t>(p.matrix.bytes() * copies));
    for (int i = 0; i < copies; ++i) {
      p.matrix.data = memory + i * p.matrix.bytes();
      CHECK_CUDA(LaunchRandomRecords(p.matrix, static_cast<uint32_t>(i), nullptr));
    }
    p.x = reinterpret_cast<const uint16_t*>(Randoms<__half>(static_cast<size_t>(2048 * c.cols)));
    p.y_stride = c.paired ? c.rows / 2 : c.rows;
    p.y = Allocate<float>(static_cast<size_t>(2048 * p.y_stride));
    for (const int m : {17, 64, 128, 256, 512, 1024, 2048}) {
      p.num_rows = m;
      std::printf("  %-7s m %4d: cuBLAS %.1f, zeros %.1f; fused", c.name, m, TimeCublas(cublas, c, m, copies, false),
                  TimeCublas(cublas, c, m, copies, true));
      for (const int bits : {3, 4, 5, 6, 8}) {
        p.bits = bits;
        const double us = TimeFused(p, memory, copies, {});
        std::printf("  %d bits %.1f (%.0f TF, %.2f TB/s)", bits, us,
                    2e-6 * static_cast<double>(m * c.rows * c.cols) / us,
                    1e-6 * static_cast<double>(p.matrix.BytesRead(bits)) / us);
      }
      std::printf("\n");
      if (divisions) {
        BenchFusedDivisions(p, memory, copies);
      }
    }
  }
}

}  // namespace
}  // namespace flexquant::cuda

// With the argument "divisions", with every division of the work too.
int main(int argc, char** argv) {
  flexquant::cuda::BenchFused(argc > 1 && std::strcmp(argv[1], "divisions") == 0);
  return 0;
}
