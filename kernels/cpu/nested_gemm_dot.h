#ifndef FLEXQUANT_KERNELS_CPU_NESTED_GEMM_DOT_H_
#define FLEXQUANT_KERNELS_CPU_NESTED_GEMM_DOT_H_

// nested_gemm for instruction sets whose dot product multiplies four bytes and adds them up in a lane of 32 bits. A
// template on the `Set`, so that no two sets share a function:
//   Set::F32, Set::Bytes   vectors as in vec_portable.h and unpack.h; Bytes has 4 * F32::kLanes bytes and a Store
//   Set::Sums              F32::kLanes int32; Set::Zero(), Set::AddToEach(s, value), Set::Pair(s, t): 128 * s + t
//   Set::kCodeBias         0, or 128 where codes have to be signed: Set::Operand(u) is u - kCodeBias as a byte
//   Set::Broadcast(p)      four int8 at p in every lane
//   Set::Dot(s, u, a)      s + the products of u's (an operand's) and a's four bytes in each lane
//   Set::ToFloat(s)

#include "kernels/cpu/tables.h"
#include "kernels/cpu/unpack.h"

namespace flexquant {

template <class Set>
class DotGemm {
 public:
  static void Run(const NestedGemmArgs& args, int bits) {
    WithWidthAndPairs(bits, args.a, [&](auto width, auto pairs) { Tiles<width, pairs>(args); });
  }

 private:
  using F32 = typename Set::F32;
  using Bytes = typename Set::Bytes;
  using Sums = typename Set::Sums;

  static constexpr int64_t kParts = kPlaneWordBytes / Bytes::kBytes;
  static constexpr int64_t kDecodeRows = 4;  // up to so many, codes go from registers into the dot products
  static constexpr int64_t kBlockRows = 6;   // rows x parts sums have room in the registers
  static constexpr int64_t kPrefetchUnits = 32;

  // One group of one tile: planes of `count` units from `first` on, and where its rows of activations and its tokens'
  // sums are.
  struct Group {
    int64_t first;
    int64_t count;
    const uint16_t* scales;  // [2, 16]: scales, zeros
    float mid;
    const int8_t* x;
    int64_t row_bytes;
    const float* x_scales;  // of tokens
    const float* x_sums;
    float* sums;  // [tokens, 16]
  };

  // Adds a token's group to its sums: `dot` is its row's product, or its first row's and `second` its second's.
  template <bool kPairs>
  static void AddToSums(const Group& group, int64_t token, int64_t part, Sums dot, [[maybe_unused]] Sums second) {
    const int64_t at = part * F32::kLanes;
    const F32 scale = F32::LoadHalf(group.scales + at);
    const F32 offset = F32::Set(group.mid) - F32::LoadHalf(group.scales + kTileRows + at);
    const float x_sum = group.x_sums[token];
    if constexpr (kPairs) {
      // At most 255 * 127 * 128 columns * 128 < 2^30.
      dot = Set::Pair(dot, second);
    }
    const F32 exact = Set::ToFloat(Set::AddToEach(dot, Set::kCodeBias * static_cast<int32_t>(x_sum)));
    float* sum = group.sums + token * kTileRows + at;
    const F32 centred = FusedFma(offset, F32::Set(x_sum), exact);
    FusedFma(scale * F32::Set(group.x_scales[token]), centred, F32::Load(sum)).Store(sum);
  }

  template <int kBits>
  static void Prefetch(const TilePlanes<Bytes>& planes, int64_t unit) {
    const int64_t ahead = unit + kPrefetchUnits;
    for (int64_t word = 0; word < 3; ++word) {
      __builtin_prefetch(planes.base3 + (ahead * 3 + word) * kPlaneWordBytes, 0, 2);
    }
    if constexpr (kBits >= 4) {
      __builtin_prefetch(planes.bit4 + ahead * kPlaneWordBytes, 0, 2);
    }
    if constexpr (kBits >= 5) {
      __builtin_prefetch(planes.bit5 + ahead * kPlaneWordBytes, 0, 2);
    }
    if constexpr (kBits >= 6) {
      __builtin_prefetch(planes.bit6 + ahead * kPlaneWordBytes, 0, 2);
    }
    if constexpr (kBits == 8) {
      __builtin_prefetch(planes.bits78 + ahead * 2 * kPlaneWordBytes, 0, 2);
      __builtin_prefetch(planes.bits78 + (ahead * 2 + 1) * kPlaneWordBytes, 0, 2);
    }
  }

  template <int kBits, int64_t kRows, bool kPairs>
  static void MultiplyFromPlanes(const TilePlanes<Bytes>& planes, const Group& group) {
    for (int64_t part = 0; part < kParts; ++part) {
      Sums dot[kRows];
#pragma GCC unroll 4
      for (int64_t row = 0; row < kRows; ++row) {
        dot[row] = Set::Zero();
      }
      int64_t u = 0;
      do {
        if (part == 0) {
          Prefetch<kBits>(planes, group.first + u);
        }
        Bytes codes[8];
        UnpackUnit<Bytes, kBits>(planes, group.first + u, part, codes);
#pragma GCC unroll 8
        for (int64_t r = 0; r < 8; ++r) {
          const Bytes operand = Set::Operand(codes[r]);
#pragma GCC unroll 4
          for (int64_t row = 0; row < kRows; ++row) {
            dot[row] = Set::Dot(dot[row], operand, Set::Broadcast(group.x + row * group.row_bytes + (u * 8 + r) * 4));
          }
        }
      } while (++u < group.count);
#pragma GCC unroll 4
      for (int64_t row = 0; row < kRows; row += kRowsOf<kPairs>) {
        AddToSums<kPairs>(group, row / kRowsOf<kPairs>, part, dot[row], dot[row + kRowsOf<kPairs> - 1]);
      }
    }
  }

  // operands: [units, 8 registers, 64 bytes].
  template <int kBits>
  static void UnpackGroup(const TilePlanes<Bytes>& planes, const Group& group, uint8_t* operands) {
    for (int64_t u = 0; u < group.count; ++u) {
      Prefetch<kBits>(planes, group.first + u);
      for (int64_t part = 0; part < kParts; ++part) {
        Bytes codes[8];
        UnpackUnit<Bytes, kBits>(planes, group.first + u, part, codes);
        for (int64_t r = 0; r < 8; ++r) {
          Set::Operand(codes[r]).Store(operands + (u * 8 + r) * kPlaneWordBytes + part * Bytes::kBytes);
        }
      }
    }
  }

  template <int64_t kRows, bool kPairs>
  static void MultiplyUnpacked(const Group& group, int64_t row, const uint8_t* operands) {
    // Loops over sums must unroll, and the one over columns know that it has some, or GCC keeps the sums in memory.
    Sums dot[kRows][kParts];
#pragma GCC unroll 8
    for (int64_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (int64_t part = 0; part < kParts; ++part) {
        dot[r][part] = Set::Zero();
      }
    }
    const int8_t* x = group.x + row * group.row_bytes;
    int64_t word = 0;
    do {
      Bytes operand[kParts];
#pragma GCC unroll 4
      for (int64_t part = 0; part < kParts; ++part) {
        operand[part] = Bytes::Load(operands + word * kPlaneWordBytes + part * Bytes::kBytes);
      }
#pragma GCC unroll 8
      for (int64_t r = 0; r < kRows; ++r) {
        const Bytes four = Set::Broadcast(x + r * group.row_bytes + word * 4);
#pragma GCC unroll 4
        for (int64_t part = 0; part < kParts; ++part) {
          dot[r][part] = Set::Dot(dot[r][part], operand[part], four);
        }
      }
    } while (++word < group.count * 8);
#pragma GCC unroll 8
    for (int64_t r = 0; r < kRows; r += kRowsOf<kPairs>) {
#pragma GCC unroll 4
      for (int64_t part = 0; part < kParts; ++part) {
        AddToSums<kPairs>(group, (row + r) / kRowsOf<kPairs>, part, dot[r][part], dot[r + kRowsOf<kPairs> - 1][part]);
      }
    }
  }

  template <int kBits, bool kPairs>
  static void MultiplyGroup(const TilePlanes<Bytes>& planes, const Group& group, int64_t rows, uint8_t* operands) {
    if (rows <= kDecodeRows) {
      return WithRows<kPairs, kDecodeRows>(rows,
                                           [&](auto all) { MultiplyFromPlanes<kBits, all, kPairs>(planes, group); });
    }
    UnpackGroup<kBits>(planes, group, operands);
    for (int64_t row = 0; row < rows; row += kBlockRows) {
      WithRows<kPairs, kBlockRows>(rows - row,
                                   [&](auto some) { MultiplyUnpacked<some, kPairs>(group, row, operands); });
    }
  }

  // Tokens [first_token, first_token + tokens), at most kTokenChunk.
  template <int kBits, bool kPairs>
  static void TileTokens(const NestedGemmArgs& args, int64_t tile, int64_t first_token, int64_t tokens,
                         uint8_t* operands) {
    const NestedMatrix& w = args.w;
    const int64_t units = (w.cols + kUnitCols - 1) / kUnitCols;
    const int64_t group_units = w.group_size / kUnitCols;
    const int64_t groups = (units + group_units - 1) / group_units;
    constexpr float kMid = static_cast<float>((1 << (8 - kBits)) - 1) * 0.5F;
    const int64_t stride = ActivationStride(w.cols);
    const TilePlanes<Bytes> planes(w, tile, units);
    auto* sums = reinterpret_cast<float*>(operands + kUnpackedBytes);
    __builtin_memset(sums, 0, static_cast<size_t>(tokens * kTileRows) * sizeof(float));
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t first = g * group_units;
      const int64_t at = g * args.a.group_stride + first_token;
      const Group group{first,
                        units - first < group_units ? units - first : group_units,
                        w.scales + (tile * groups + g) * 2 * kTileRows,
                        kMid,
                        args.a.values + first_token * kRowsOf<kPairs> * stride + first * kUnitCols,
                        stride,
                        args.a.scales + at,
                        args.a.sums + at,
                        sums};
      MultiplyGroup<kBits, kPairs>(planes, group, tokens * kRowsOf<kPairs>, operands);
    }
    const int64_t outputs = w.rows - tile * kTileRows < kTileRows ? w.rows - tile * kTileRows : kTileRows;
    float* y = args.y + first_token * args.ldy + tile * kTileRows;
    for (int64_t t = 0; t < tokens; ++t) {
      __builtin_memcpy(y + t * args.ldy, sums + t * kTileRows, static_cast<size_t>(outputs) * sizeof(float));
    }
  }

  template <int kBits, bool kPairs>
  static void Tiles(const NestedGemmArgs& args) {
    const auto address = reinterpret_cast<uintptr_t>(args.workspace);
    uint8_t* operands = static_cast<uint8_t*>(args.workspace) + (-address & (kWorkspaceAlignment - 1));
    for (int64_t tile = args.tile_begin; tile < args.tile_end; ++tile) {
      for (int64_t t = 0; t < args.a.m; t += kTokenChunk) {
        TileTokens<kBits, kPairs>(args, tile, t, args.a.m - t < kTokenChunk ? args.a.m - t : kTokenChunk, operands);
      }
    }
  }
};

}  // namespace flexquant

#endif  // FLEXQUANT_KERNELS_CPU_NESTED_GEMM_DOT_H_
