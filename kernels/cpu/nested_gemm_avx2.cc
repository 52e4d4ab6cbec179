// nested_gemm for AVX2 + FMA + F16C. A group of a tile is unpacked once into a buffer in L1. vpmaddubsw adds pairs of
// products into 16 bits and saturates, so a code u is kept as u >> 2 <= 63 and, at 8 bits, u & 3: two products of the
// former stay below 2 * 63 * 127 = 16002, which leaves room for one 16-bit addition.

#include <immintrin.h>

#include "kernels/cpu/bytes_256.h"
#include "kernels/cpu/tables.h"
#include "kernels/cpu/unpack.h"

namespace flexquant::avx2 {
namespace {

constexpr int64_t kPrefetchBytes = 4096;

struct Avx2 {};
using Bytes = Bytes256<Avx2>;

inline __m256i Broadcast4(const int8_t* from) {
  int32_t quad;
  __builtin_memcpy(&quad, from, sizeof(quad));
  return _mm256_set1_epi32(quad);
}

inline __m256i WidenPairs(__m256i shorts) { return _mm256_madd_epi16(shorts, _mm256_set1_epi16(1)); }

// codes: [registers, 2 halves, 32] of u >> 2, then at kSplit the same of u & 3, kLowAt bytes on.
constexpr int64_t kLowAt = kUnpackedBytes / 2;

template <int kBits>
void UnpackGroup(const TilePlanes<Bytes>& planes, int64_t first, int64_t count, uint8_t* codes) {
  for (int64_t u = 0; u < count; ++u) {
    __builtin_prefetch(planes.base3 + (first + u) * 3 * kPlaneWordBytes + kPrefetchBytes);
    for (int64_t part = 0; part < 2; ++part) {
      Bytes f[8];
      UnpackHigh<Bytes, kBits, 2>(planes, first + u, part, f);
      for (int64_t r = 0; r < 8; ++r) {
        _mm256_store_si256(reinterpret_cast<__m256i*>(codes + (u * 8 + r) * 64 + part * 32), f[r].v);
      }
      if constexpr (kBits == 8) {
        Bytes low[8];
        for (Bytes& register_low : low) {
          register_low = Bytes::Set(0);
        }
        MergeLow<Bytes>(planes, first + u, part, low);
        for (int64_t r = 0; r < 8; ++r) {
          _mm256_store_si256(reinterpret_cast<__m256i*>(codes + kLowAt + (u * 8 + r) * 64 + part * 32), low[r].v);
        }
      }
    }
  }
}

struct Block {
  const uint8_t* codes;
  int64_t units;
  const int8_t* x;
  int64_t row_bytes;
  const float* x_scales;  // of tokens
  const float* x_sums;
  float* sums;  // [tokens, 16]
};

template <bool kSplit, int kRows, bool kPairs>
void MultiplyBlock(const Block& block, const __m256* w_scale, const __m256* w_offset) {
  __m256i dot[kRows][2];
  __m256i low_dot[kRows][2];
  // Loops over sums must unroll, and the one over columns know that it has some, or GCC keeps the sums in memory.
#pragma GCC unroll 3
  for (int t = 0; t < kRows; ++t) {
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      dot[t][half] = _mm256_setzero_si256();
      low_dot[t][half] = _mm256_setzero_si256();
    }
  }
  int64_t pair = 0;
  do {
    const auto* codes = reinterpret_cast<const __m256i*>(block.codes + pair * 128);
    const auto* low = reinterpret_cast<const __m256i*>(block.codes + kLowAt + pair * 128);
#pragma GCC unroll 3
    for (int t = 0; t < kRows; ++t) {
      const __m256i a0 = Broadcast4(block.x + t * block.row_bytes + pair * 8);
      const __m256i a1 = Broadcast4(block.x + t * block.row_bytes + pair * 8 + 4);
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half) {
        const __m256i high = _mm256_add_epi16(_mm256_maddubs_epi16(_mm256_load_si256(codes + half), a0),
                                              _mm256_maddubs_epi16(_mm256_load_si256(codes + 2 + half), a1));
        dot[t][half] = _mm256_add_epi32(dot[t][half], WidenPairs(high));
        if constexpr (kSplit) {
          const __m256i small = _mm256_add_epi16(_mm256_maddubs_epi16(_mm256_load_si256(low + half), a0),
                                                 _mm256_maddubs_epi16(_mm256_load_si256(low + 2 + half), a1));
          low_dot[t][half] = _mm256_add_epi32(low_dot[t][half], WidenPairs(small));
        }
      }
    }
  } while (++pair < block.units * 4);
#pragma GCC unroll 3
  for (int t = 0; t < kRows / kRowsOf<kPairs>; ++t) {
    const int row = t * kRowsOf<kPairs>;
    const __m256 x_scale = _mm256_set1_ps(block.x_scales[t]);
    const __m256 x_sum = _mm256_set1_ps(block.x_sums[t]);
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      const auto whole = [&](int r) { return _mm256_add_epi32(_mm256_slli_epi32(dot[r][half], 2), low_dot[r][half]); };
      // Of pairs at most 255 * 127 * 128 columns * 128 < 2^30.
      const __m256i exact =
          kPairs ? _mm256_add_epi32(_mm256_slli_epi32(whole(row), 7), whole(row + kRowsOf<kPairs> - 1)) : whole(row);
      const __m256 centred = _mm256_fmadd_ps(w_offset[half], x_sum, _mm256_cvtepi32_ps(exact));
      float* y = block.sums + t * kTileRows + half * 8;
      _mm256_storeu_ps(y, _mm256_fmadd_ps(_mm256_mul_ps(w_scale[half], x_scale), centred, _mm256_loadu_ps(y)));
    }
  }
}

// Tokens [first_token, first_token + tokens), at most kTokenChunk.
template <int kBits, bool kPairs>
void TileTokens(const NestedGemmArgs& args, int64_t tile, int64_t first_token, int64_t tokens, uint8_t* codes) {
  const NestedMatrix& w = args.w;
  const int64_t units = (w.cols + kUnitCols - 1) / kUnitCols;
  const int64_t group_units = w.group_size / kUnitCols;
  const int64_t groups = (units + group_units - 1) / group_units;
  const int64_t stride = ActivationStride(w.cols);
  // Tokens whose sums have room in the registers.
  constexpr int kBlockTokens = kPairs ? 1 : 3;
  constexpr float kMid = static_cast<float>((1 << (8 - kBits)) - 1) * 0.5F;
  const TilePlanes<Bytes> planes(w, tile, units);
  auto* sums = reinterpret_cast<float*>(codes + kUnpackedBytes);
  __builtin_memset(sums, 0, static_cast<size_t>(tokens * kTileRows) * sizeof(float));
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t first = g * group_units;
    const int64_t count = units - first < group_units ? units - first : group_units;
    UnpackGroup<kBits>(planes, first, count, codes);
    const auto* packed = reinterpret_cast<const __m128i*>(w.scales + (tile * groups + g) * 2 * kTileRows);
    __m256 w_scale[2];
    __m256 w_offset[2];
    for (int half = 0; half < 2; ++half) {
      w_scale[half] = _mm256_cvtph_ps(_mm_loadu_si128(packed + half));
      w_offset[half] = _mm256_sub_ps(_mm256_set1_ps(kMid), _mm256_cvtph_ps(_mm_loadu_si128(packed + 2 + half)));
    }
    for (int64_t t = 0; t < tokens; t += kBlockTokens) {
      const int64_t at = g * args.a.group_stride + first_token + t;
      const Block block{codes,
                        count,
                        args.a.values + (first_token + t) * kRowsOf<kPairs> * stride + first * kUnitCols,
                        stride,
                        args.a.scales + at,
                        args.a.sums + at,
                        sums + t * kTileRows};
      WithRows<kPairs, kBlockTokens * kRowsOf<kPairs>>((tokens - t) * kRowsOf<kPairs>, [&](auto rows) {
        MultiplyBlock<kBits == 8, rows, kPairs>(block, w_scale, w_offset);
      });
    }
  }
  const int64_t outputs = w.rows - tile * kTileRows < kTileRows ? w.rows - tile * kTileRows : kTileRows;
  float* y = args.y + first_token * args.ldy + tile * kTileRows;
  for (int64_t t = 0; t < tokens; ++t) {
    __builtin_memcpy(y + t * args.ldy, sums + t * kTileRows, static_cast<size_t>(outputs) * sizeof(float));
  }
}

template <int kBits, bool kPairs>
void Gemm(const NestedGemmArgs& args) {
  const auto address = reinterpret_cast<uintptr_t>(args.workspace);
  uint8_t* codes = static_cast<uint8_t*>(args.workspace) + (-address & (kWorkspaceAlignment - 1));
  for (int64_t tile = args.tile_begin; tile < args.tile_end; ++tile) {
    for (int64_t t = 0; t < args.a.m; t += kTokenChunk) {
      TileTokens<kBits, kPairs>(args, tile, t, args.a.m - t < kTokenChunk ? args.a.m - t : kTokenChunk, codes);
    }
  }
}

}  // namespace

void NestedGemm(const NestedMatrix& w, int bits, const QuantizedActivations& a, int64_t tile_begin, int64_t tile_end,
                float* y, int64_t ldy, void* workspace) {
  const NestedGemmArgs args{w, a, tile_begin, tile_end, y, ldy, workspace};
  WithWidthAndPairs(bits, a, [&](auto width, auto pairs) { Gemm<width, pairs>(args); });
}

}  // namespace flexquant::avx2
