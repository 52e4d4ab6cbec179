#include "common/formats/ggml_dequantize.h"

#include <array>
#include <cstring>

#include "common/check.h"
#include "common/half.h"

namespace flexquant {
namespace {

uint16_t LoadU16(const uint8_t* bytes) { return static_cast<uint16_t>(bytes[0] | (bytes[1] << 8)); }

uint32_t LoadU32(const uint8_t* bytes) {
  uint32_t value = 0;
  std::memcpy(&value, bytes, sizeof(value));
  return value;
}

float LoadHalf(const uint8_t* bytes) { return HalfToFloat(LoadU16(bytes)); }

// Blocks of 32: fp16 scale d, then for the _1 types fp16 minimum m, for the Q5 types 32 fifth bits, then codes. Byte j
// of the codes holds element j in its low half and element j + 16 in its high half.

void BlockQ4_0(const uint8_t* block, float* out) {
  const float d = LoadHalf(block);
  for (int j = 0; j < 16; ++j) {
    const int code = block[2 + j];
    out[j] = static_cast<float>((code & 15) - 8) * d;
    out[j + 16] = static_cast<float>((code >> 4) - 8) * d;
  }
}

void BlockQ4_1(const uint8_t* block, float* out) {
  const float d = LoadHalf(block);
  const float m = LoadHalf(block + 2);
  for (int j = 0; j < 16; ++j) {
    const int code = block[4 + j];
    out[j] = static_cast<float>(code & 15) * d + m;
    out[j + 16] = static_cast<float>(code >> 4) * d + m;
  }
}

// Code of element j and j + 16 with the fifth bit put in.
int LowCode(uint32_t fifth_bits, int code, int j) {
  return (code & 15) | static_cast<int>(((fifth_bits >> j) & 1U) << 4U);
}
int HighCode(uint32_t fifth_bits, int code, int j) {
  return (code >> 4) | static_cast<int>(((fifth_bits >> (j + 16)) & 1U) << 4U);
}

void BlockQ5_0(const uint8_t* block, float* out) {
  const float d = LoadHalf(block);
  const uint32_t fifth_bits = LoadU32(block + 2);
  for (int j = 0; j < 16; ++j) {
    const int code = block[6 + j];
    out[j] = static_cast<float>(LowCode(fifth_bits, code, j) - 16) * d;
    out[j + 16] = static_cast<float>(HighCode(fifth_bits, code, j) - 16) * d;
  }
}

void BlockQ5_1(const uint8_t* block, float* out) {
  const float d = LoadHalf(block);
  const float m = LoadHalf(block + 2);
  const uint32_t fifth_bits = LoadU32(block + 4);
  for (int j = 0; j < 16; ++j) {
    const int code = block[8 + j];
    out[j] = static_cast<float>(LowCode(fifth_bits, code, j)) * d + m;
    out[j + 16] = static_cast<float>(HighCode(fifth_bits, code, j)) * d + m;
  }
}

void BlockQ8_0(const uint8_t* block, float* out) {
  const float d = LoadHalf(block);
  for (int j = 0; j < 32; ++j) {
    out[j] = static_cast<float>(static_cast<int8_t>(block[2 + j])) * d;
  }
}

// K types: super-blocks of 256 with small scales of their own under one or two fp16.

// 16 bytes of scale (low half) and minimum (high half) of 16 elements each; 64 bytes of codes; d; dmin.
void BlockQ2_K(const uint8_t* block, float* out) {
  const uint8_t* codes = block + 16;
  const float d = LoadHalf(block + 80);
  const float dmin = LoadHalf(block + 82);
  for (int i = 0; i < 256; ++i) {
    const int half = i / 128;
    const int within = i % 128;
    const int code = (codes[32 * half + within % 32] >> (2 * (within / 32))) & 3;
    const int scale = block[i / 16];
    out[i] = d * static_cast<float>(scale & 15) * static_cast<float>(code) - dmin * static_cast<float>(scale >> 4);
  }
}

// 32 bytes of third bits; 64 bytes of low codes; 12 bytes of sixteen 6-bit scales; d.
void BlockQ3_K(const uint8_t* block, float* out) {
  const uint8_t* codes = block + 32;
  const uint8_t* packed = block + 96;
  const float d = LoadHalf(block + 108);
  std::array<float, 16> scales{};
  for (int s = 0; s < 16; ++s) {
    // Low four bits: bytes 0 to 7, both halves; high two: bytes 8 to 11.
    const int low = s < 8 ? packed[s] & 15 : packed[s - 8] >> 4;
    const int high = (packed[8 + s % 4] >> (2 * (s / 4))) & 3;
    scales[static_cast<size_t>(s)] = d * static_cast<float>((low | (high << 4)) - 32);
  }
  for (int i = 0; i < 256; ++i) {
    const int low = (codes[32 * (i / 128) + i % 32] >> (2 * ((i % 128) / 32))) & 3;
    const int high = (block[i % 32] >> (i / 32)) & 1;
    out[i] = scales[static_cast<size_t>(i / 16)] * static_cast<float>(low + 4 * high - 4);
  }
}

struct ScaleAndMin {
  float scale;
  float min;
};

// Q4_K's and Q5_K's 12 bytes of eight 6-bit scales and minima.
ScaleAndMin ScaleOf(const uint8_t* packed, int index, float d, float dmin) {
  int scale = 0;
  int min = 0;
  if (index < 4) {
    scale = packed[index] & 63;
    min = packed[index + 4] & 63;
  } else {
    scale = (packed[index + 4] & 15) | ((packed[index - 4] >> 6) << 4);
    min = (packed[index + 4] >> 4) | ((packed[index] >> 6) << 4);
  }
  return {d * static_cast<float>(scale), dmin * static_cast<float>(min)};
}

// d; dmin; 12 bytes of scales; 128 bytes of codes, 32 bytes a pair of 32 elements.
void BlockQ4_K(const uint8_t* block, float* out) {
  const float d = LoadHalf(block);
  const float dmin = LoadHalf(block + 2);
  for (int group = 0; group < 8; ++group) {
    const uint8_t* codes = block + 16 + 32 * (group / 2);
    const ScaleAndMin s = ScaleOf(block + 4, group, d, dmin);
    for (int j = 0; j < 32; ++j) {
      const int code = (codes[j] >> (4 * (group % 2))) & 15;
      out[32 * group + j] = s.scale * static_cast<float>(code) - s.min;
    }
  }
}

// Like Q4_K with 32 bytes of fifth bits before the codes: bit g of byte j belongs to element j of group g.
void BlockQ5_K(const uint8_t* block, float* out) {
  const float d = LoadHalf(block);
  const float dmin = LoadHalf(block + 2);
  const uint8_t* fifth_bits = block + 16;
  for (int group = 0; group < 8; ++group) {
    const uint8_t* codes = block + 48 + 32 * (group / 2);
    const ScaleAndMin s = ScaleOf(block + 4, group, d, dmin);
    for (int j = 0; j < 32; ++j) {
      const int code = ((codes[j] >> (4 * (group % 2))) & 15) | (((fifth_bits[j] >> group) & 1) << 4);
      out[32 * group + j] = s.scale * static_cast<float>(code) - s.min;
    }
  }
}

// 128 bytes of low codes; 64 bytes of high bits; sixteen int8 scales; d.
void BlockQ6_K(const uint8_t* block, float* out) {
  const uint8_t* high_bits = block + 128;
  const uint8_t* scales = block + 192;
  const float d = LoadHalf(block + 208);
  for (int group = 0; group < 8; ++group) {
    const int half = group / 4;
    const int quarter = group % 4;
    const uint8_t* low = block + 64 * half + 32 * (quarter % 2);
    for (int j = 0; j < 32; ++j) {
      const int low_code = (low[j] >> (4 * (quarter / 2))) & 15;
      const int high_code = (high_bits[32 * half + j] >> (2 * quarter)) & 3;
      const auto scale = static_cast<float>(static_cast<int8_t>(scales[2 * group + j / 16]));
      out[32 * group + j] = d * scale * static_cast<float>((low_code | (high_code << 4)) - 32);
    }
  }
}

template <void (*kBlock)(const uint8_t*, float*)>
void Blocks(const GgmlTypeTraits& traits, absl::Span<const uint8_t> data, absl::Span<float> out) {
  const auto elements = static_cast<size_t>(traits.block_elements);
  const auto bytes = static_cast<size_t>(traits.block_bytes);
  for (size_t i = 0; i < out.size() / elements; ++i) {
    kBlock(data.data() + i * bytes, out.data() + i * elements);
  }
}

}  // namespace

void GgmlDequantize(GgmlType type, absl::Span<const uint8_t> data, absl::Span<float> out) {
  const GgmlTypeTraits* traits = FindGgmlType(static_cast<uint32_t>(type));
  FQ_CHECK(traits != nullptr);
  const auto elements = static_cast<size_t>(traits->block_elements);
  FQ_CHECK(out.size() % elements == 0 &&
           data.size() == out.size() / elements * static_cast<size_t>(traits->block_bytes));
  switch (type) {
    case GgmlType::kF32:
      if (!data.empty()) {
        std::memcpy(out.data(), data.data(), data.size());
      }
      return;
    case GgmlType::kF16:
      for (size_t i = 0; i < out.size(); ++i) {
        out[i] = LoadHalf(data.data() + 2 * i);
      }
      return;
    case GgmlType::kBF16:
      for (size_t i = 0; i < out.size(); ++i) {
        out[i] = Bfloat16ToFloat(LoadU16(data.data() + 2 * i));
      }
      return;
    case GgmlType::kQ4_0:
      return Blocks<BlockQ4_0>(*traits, data, out);
    case GgmlType::kQ4_1:
      return Blocks<BlockQ4_1>(*traits, data, out);
    case GgmlType::kQ5_0:
      return Blocks<BlockQ5_0>(*traits, data, out);
    case GgmlType::kQ5_1:
      return Blocks<BlockQ5_1>(*traits, data, out);
    case GgmlType::kQ8_0:
      return Blocks<BlockQ8_0>(*traits, data, out);
    case GgmlType::kQ2_K:
      return Blocks<BlockQ2_K>(*traits, data, out);
    case GgmlType::kQ3_K:
      return Blocks<BlockQ3_K>(*traits, data, out);
    case GgmlType::kQ4_K:
      return Blocks<BlockQ4_K>(*traits, data, out);
    case GgmlType::kQ5_K:
      return Blocks<BlockQ5_K>(*traits, data, out);
    case GgmlType::kQ6_K:
      return Blocks<BlockQ6_K>(*traits, data, out);
  }
}

}  // namespace flexquant
