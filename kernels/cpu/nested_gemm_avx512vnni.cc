// nested_gemm for AVX-512 with VNNI. Few tokens: codes go from plane registers straight into dot products, so that the
// planes' stream from memory is the limit. Many tokens: a group of two tiles is unpacked once into a buffer in L1.

#include <immintrin.h>

#include "kernels/cpu/tables.h"
#include "kernels/cpu/unpack.h"

namespace flexquant::avx512 {
namespace {

// Most rows of activations for which codes are not worth a buffer. At 16 one would be 8 % quicker with weights in L2,
// but a step's come from memory: there multiplications that wait for a buffer to fill take a fifth longer.
constexpr int kDirectRows = 16;
// Rows of activations by tiles of one register block: 24 accumulators, 2 codes, the rest for broadcasts.
constexpr int kBlockRows = 12;
// How many units ahead of their use planes are fetched: the hardware's streams stop at page ends.
constexpr int64_t kPrefetchUnits = 32;

struct Bytes {
  static constexpr int64_t kBytes = 64;
  __m512i v;

  static Bytes Load(const uint8_t* from) { return {_mm512_loadu_si512(from)}; }
  static Bytes Set(int byte) { return {_mm512_set1_epi8(static_cast<char>(byte))}; }
  template <int kShift>
  static Bytes Shift(Bytes from) {
    if constexpr (kShift > 0) {
      return {_mm512_slli_epi16(from.v, kShift)};
    } else if constexpr (kShift < 0) {
      return {_mm512_srli_epi16(from.v, -kShift)};
    } else {
      return from;
    }
  }
  friend Bytes And(Bytes a, Bytes b) { return {_mm512_and_si512(a.v, b.v)}; }
  // Ternary logic tables: bit 4a + 2b + c of the constant is the result for bits a, b, c.
  friend Bytes Merge(Bytes acc, Bytes from, Bytes mask) {
    return {_mm512_ternarylogic_epi32(acc.v, from.v, mask.v, 0xF8)};
  }
  friend Bytes Select(Bytes mask, Bytes a, Bytes b) { return {_mm512_ternarylogic_epi32(mask.v, a.v, b.v, 0xCA)}; }
};

struct Geometry {
  int64_t units;
  int64_t group_units;
  int64_t groups;
  int64_t row_bytes;  // of activations

  explicit Geometry(const NestedMatrix& w)
      : units((w.cols + kUnitCols - 1) / kUnitCols),
        group_units(w.group_size / kUnitCols),
        groups((units + group_units - 1) / group_units),
        row_bytes(ActivationStride(w.cols)) {}
};

inline __m512i Broadcast4(const int8_t* from) {
  int32_t quad;
  __builtin_memcpy(&quad, from, sizeof(quad));
  return _mm512_set1_epi32(quad);
}

template <int kBits>
inline __m512 Offset(const uint16_t* packed) {
  constexpr float kMid = static_cast<float>((1 << (8 - kBits)) - 1) * 0.5F;
  const __m512 zero = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(packed + kTileRows)));
  return _mm512_sub_ps(_mm512_set1_ps(kMid), zero);
}

inline __m512 Scale(const uint16_t* packed) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(packed)));
}

// The one way a group's integer dot product enters an output: both paths share it, hence equal results.
inline __m512 AddGroup(__m512 y, __m512i dot, __m512 w_scale, __m512 w_offset, float x_scale, float x_sum) {
  const __m512 centred = _mm512_fmadd_ps(w_offset, _mm512_set1_ps(x_sum), _mm512_cvtepi32_ps(dot));
  return _mm512_fmadd_ps(_mm512_mul_ps(w_scale, _mm512_set1_ps(x_scale)), centred, y);
}

// A token's integer dot product of its row's, or of its first and second rows'.
template <bool kPairs>
inline __m512i Whole(__m512i dot, [[maybe_unused]] __m512i second) {
  if constexpr (kPairs) {
    // At most 255 * 127 * 128 columns * 128 < 2^30.
    return _mm512_add_epi32(_mm512_slli_epi32(dot, 7), second);
  } else {
    return dot;
  }
}

inline __mmask16 RowMask(const NestedMatrix& w, int64_t tile) {
  const int64_t rows = w.rows - tile * kTileRows;
  return rows >= kTileRows ? static_cast<__mmask16>(0xFFFF) : static_cast<__mmask16>((1U << rows) - 1U);
}

// Into L2: what is ahead in L1 would be driven out by the activations before its use.
[[gnu::always_inline]] inline void Prefetch(const uint8_t* from) { __builtin_prefetch(from, 0, 2); }

// Inlined by force: GCC takes a function that only prefetches for one without effect and drops the call.
template <int kBits>
[[gnu::always_inline]] inline void PrefetchUnit(const TilePlanes<Bytes>& planes, int64_t unit) {
  const int64_t at = (unit + kPrefetchUnits) * kPlaneWordBytes;
  Prefetch(planes.base3 + 3 * at);
  Prefetch(planes.base3 + 3 * at + kPlaneWordBytes);
  Prefetch(planes.base3 + 3 * at + 2 * kPlaneWordBytes);
  if constexpr (kBits >= 4) {
    Prefetch(planes.bit4 + at);
  }
  if constexpr (kBits >= 5) {
    Prefetch(planes.bit5 + at);
  }
  if constexpr (kBits >= 6) {
    Prefetch(planes.bit6 + at);
  }
  if constexpr (kBits == 8) {
    Prefetch(planes.bits78 + 2 * at);
    Prefetch(planes.bits78 + 2 * at + kPlaneWordBytes);
  }
}

// sum += u * a. As an intrinsic, whose result is a new value, GCC copies sums back and forth and finds no room for 24.
[[gnu::always_inline]] inline void AddDot(__m512i& sum, __m512i u, __m512i a) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(u), "v"(a));
}

// kRows rows of activations, all there are, times all tiles, straight from the planes.
template <int kBits, int kRows, bool kPairs>
void Direct(const NestedGemmArgs& args) {
  constexpr int kTokens = kRows / kRowsOf<kPairs>;
  // Four chains hide vpdpbusd's latency.
  constexpr int kChains = kRows == 1 ? 4 : (kRows <= 3 ? 2 : 1);
  const Geometry geometry(args.w);
  const int8_t* x = args.a.values;
  for (int64_t tile = args.tile_begin; tile < args.tile_end; ++tile) {
    const TilePlanes<Bytes> planes(args.w, tile, geometry.units);
    const uint16_t* packed = args.w.scales + tile * geometry.groups * 2 * kTileRows;
    __m512 y[kTokens];
#pragma GCC unroll 16
    for (int t = 0; t < kTokens; ++t) {
      y[t] = _mm512_setzero_ps();
    }
    int64_t unit = 0;
    for (int64_t g = 0; g < geometry.groups; ++g) {
      __m512i dot[kRows][kChains];
#pragma GCC unroll 16
      for (int t = 0; t < kRows; ++t) {
#pragma GCC unroll 8
        for (int c = 0; c < kChains; ++c) {
          dot[t][c] = _mm512_setzero_si512();
        }
      }
      const int64_t left = unit + geometry.group_units;
      const int64_t end = left < geometry.units ? left : geometry.units;
      for (; unit < end; ++unit) {
        PrefetchUnit<kBits>(planes, unit);
        Bytes f[8];
        UnpackUnit<Bytes, kBits>(planes, unit, 0, f);
#pragma GCC unroll 8
        for (int r = 0; r < 8; ++r) {
#pragma GCC unroll 16
          for (int t = 0; t < kRows; ++t) {
            const int8_t* quad = x + t * geometry.row_bytes + unit * kUnitCols + 4 * r;
            AddDot(dot[t][r % kChains], f[r].v, Broadcast4(quad));
          }
        }
      }
      const __m512 w_scale = Scale(packed);
      const __m512 w_offset = Offset<kBits>(packed);
      packed += 2 * kTileRows;
      __m512i sum[kRows];
#pragma GCC unroll 16
      for (int t = 0; t < kRows; ++t) {
        sum[t] = dot[t][0];
#pragma GCC unroll 8
        for (int c = 1; c < kChains; ++c) {
          sum[t] = _mm512_add_epi32(sum[t], dot[t][c]);
        }
      }
#pragma GCC unroll 16
      for (int t = 0; t < kTokens; ++t) {
        const int row = t * kRowsOf<kPairs>;
        const int64_t at = g * args.a.group_stride + t;
        y[t] = AddGroup(y[t], Whole<kPairs>(sum[row], sum[row + kRowsOf<kPairs> - 1]), w_scale, w_offset,
                        args.a.scales[at], args.a.sums[at]);
      }
    }
    const __mmask16 mask = RowMask(args.w, tile);
#pragma GCC unroll 16
    for (int t = 0; t < kTokens; ++t) {
      _mm512_mask_storeu_ps(args.y + t * args.ldy + tile * kTileRows, mask, y[t]);
    }
  }
}

// A group of kTiles tiles, unpacked.
struct Block {
  const uint8_t* codes;  // [quads, kTiles, 64]
  int64_t quads;         // columns / 4
  const int8_t* x;       // first row's values of the group
  const int8_t* next_x;  // what the next block will read, as many rows
  int64_t row_bytes;
  const float* x_scales;  // of tokens
  const float* x_sums;
  float* sums;  // [tokens, kTiles, 16]
};

template <int kTiles, int kRows, bool kPairs>
inline void MultiplyBlock(const Block& block, const __m512* w_scale, const __m512* w_offset) {
  // Loops over accumulators must unroll, or GCC keeps these in memory.
  __m512i dot[kRows][kTiles];
#pragma GCC unroll 16
  for (int t = 0; t < kRows; ++t) {
#pragma GCC unroll 2
    for (int i = 0; i < kTiles; ++i) {
      dot[t][i] = _mm512_setzero_si512();
    }
  }
  // One pointer for three rows, the others by an index: twelve pointers do not fit the general registers.
  constexpr int kPointers = (kRows + 2) / 3;
  const int8_t* x[kPointers];
#pragma GCC unroll 4
  for (int p = 0; p < kPointers; ++p) {
    x[p] = block.x + 3 * p * block.row_bytes;
  }
  const int64_t stride = block.row_bytes;
#pragma GCC unroll 16
  for (int t = 0; t < kRows; ++t) {
    __builtin_prefetch(block.next_x + t * stride);
    __builtin_prefetch(block.next_x + t * stride + 64);
  }
  const uint8_t* codes = block.codes;
  const uint8_t* end = codes + block.quads * kTiles * kPlaneWordBytes;
#pragma GCC unroll 1
  do {
#pragma GCC unroll 4
    for (int quad = 0; quad < 4; ++quad) {
      __m512i u[kTiles];
#pragma GCC unroll 2
      for (int i = 0; i < kTiles; ++i) {
        u[i] = _mm512_load_si512(codes + (quad * kTiles + i) * kPlaneWordBytes);
      }
#pragma GCC unroll 16
      for (int t = 0; t < kRows; ++t) {
        const __m512i a = Broadcast4(x[t / 3] + (t % 3) * stride + 4 * quad);
#pragma GCC unroll 2
        for (int i = 0; i < kTiles; ++i) {
          AddDot(dot[t][i], u[i], a);
        }
      }
    }
    codes += 4 * kTiles * kPlaneWordBytes;
#pragma GCC unroll 4
    for (int p = 0; p < kPointers; ++p) {
      x[p] += 16;
    }
  } while (codes != end);
#pragma GCC unroll 16
  for (int t = 0; t < kRows / kRowsOf<kPairs>; ++t) {
    const int row = t * kRowsOf<kPairs>;
#pragma GCC unroll 2
    for (int i = 0; i < kTiles; ++i) {
      float* sum = block.sums + (t * kTiles + i) * kTileRows;
      const __m512i whole = Whole<kPairs>(dot[row][i], dot[row + kRowsOf<kPairs> - 1][i]);
      _mm512_store_ps(
          sum, AddGroup(_mm512_load_ps(sum), whole, w_scale[i], w_offset[i], block.x_scales[t], block.x_sums[t]));
    }
  }
}

template <int kBits, int kTiles>
void UnpackGroup(const NestedMatrix& w, const Geometry& geometry, int64_t tile, int64_t first, int64_t count,
                 uint8_t* codes) {
  for (int i = 0; i < kTiles; ++i) {
    const TilePlanes<Bytes> planes(w, tile + i, geometry.units);
    for (int64_t u = 0; u < count; ++u) {
      PrefetchUnit<kBits>(planes, first + u);
      Bytes f[8];
      UnpackUnit<Bytes, kBits>(planes, first + u, 0, f);
      for (int r = 0; r < 8; ++r) {
        _mm512_store_si512(codes + ((u * 8 + r) * kTiles + i) * kPlaneWordBytes, f[r].v);
      }
    }
  }
}

// kTiles tiles from `tile` times tokens [first_token, first_token + tokens), at most kTokenChunk.
template <int kBits, int kTiles, bool kPairs>
void Buffered(const NestedGemmArgs& args, const Geometry& geometry, int64_t tile, int64_t first_token, int64_t tokens,
              uint8_t* workspace) {
  uint8_t* codes = workspace;
  auto* sums = reinterpret_cast<float*>(workspace + kUnpackedBytes);
  constexpr int64_t kBlockTokens = kBlockRows / kRowsOf<kPairs>;
  const int64_t blocks = (tokens + kBlockTokens - 1) / kBlockTokens;
  const int64_t token_bytes = geometry.row_bytes * kRowsOf<kPairs>;
  for (int64_t i = 0; i < tokens * kTiles; ++i) {
    _mm512_store_ps(sums + i * kTileRows, _mm512_setzero_ps());
  }
  for (int64_t g = 0; g < geometry.groups; ++g) {
    const int64_t first = g * geometry.group_units;
    const int64_t left = geometry.units - first;
    const int64_t count = left < geometry.group_units ? left : geometry.group_units;
    UnpackGroup<kBits, kTiles>(args.w, geometry, tile, first, count, codes);
    __m512 w_scale[kTiles];
    __m512 w_offset[kTiles];
    for (int i = 0; i < kTiles; ++i) {
      const uint16_t* packed = args.w.scales + ((tile + i) * geometry.groups + g) * 2 * kTileRows;
      w_scale[i] = Scale(packed);
      w_offset[i] = Offset<kBits>(packed);
    }
    const int8_t* group_x = args.a.values + first_token * token_bytes + first * kUnitCols;
    const int64_t at = g * args.a.group_stride + first_token;
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t begin = tokens * b / blocks;
      const int64_t end = tokens * (b + 1) / blocks;
      const Block block{codes,
                        count * 8,
                        group_x + begin * token_bytes,
                        b + 1 < blocks ? group_x + end * token_bytes : group_x + count * kUnitCols,
                        geometry.row_bytes,
                        args.a.scales + at + begin,
                        args.a.sums + at + begin,
                        sums + begin * kTiles * kTileRows};
      WithRows<kPairs, kBlockRows>((end - begin) * kRowsOf<kPairs>,
                                   [&](auto rows) { MultiplyBlock<kTiles, rows, kPairs>(block, w_scale, w_offset); });
    }
  }
  for (int64_t t = 0; t < tokens; ++t) {
    for (int i = 0; i < kTiles; ++i) {
      _mm512_mask_storeu_ps(args.y + (first_token + t) * args.ldy + (tile + i) * kTileRows, RowMask(args.w, tile + i),
                            _mm512_load_ps(sums + (t * kTiles + i) * kTileRows));
    }
  }
}

template <int kBits, bool kPairs>
void Gemm(const NestedGemmArgs& args) {
  const int64_t rows = args.a.m * kRowsOf<kPairs>;
  if (rows == 0) {
    return;
  }
  if (rows <= kDirectRows) {
    return WithRows<kPairs, kDirectRows>(rows, [&](auto all) { Direct<kBits, all, kPairs>(args); });
  }
  const Geometry geometry(args.w);
  const auto address = reinterpret_cast<uintptr_t>(args.workspace);
  uint8_t* workspace = static_cast<uint8_t*>(args.workspace) + (-address & (kWorkspaceAlignment - 1));
  for (int64_t tile = args.tile_begin; tile < args.tile_end; tile += 2) {
    for (int64_t t = 0; t < args.a.m; t += kTokenChunk) {
      const int64_t tokens = args.a.m - t < kTokenChunk ? args.a.m - t : kTokenChunk;
      if (tile + 1 < args.tile_end) {
        Buffered<kBits, 2, kPairs>(args, geometry, tile, t, tokens, workspace);
      } else {
        Buffered<kBits, 1, kPairs>(args, geometry, tile, t, tokens, workspace);
      }
    }
  }
}

}  // namespace

void NestedGemm(const NestedMatrix& w, int bits, const QuantizedActivations& a, int64_t tile_begin, int64_t tile_end,
                float* y, int64_t ldy, void* workspace) {
  const NestedGemmArgs args{w, a, tile_begin, tile_end, y, ldy, workspace};
  WithWidthAndPairs(bits, a, [&](auto width, auto pairs) { Gemm<width, pairs>(args); });
}

}  // namespace flexquant::avx512
