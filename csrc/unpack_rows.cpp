#include "unpack_rows.h"

#include <string.h>

#include "half.h"

namespace onebit {
namespace {

// --- factors

bool half_at(const uint8_t* p, float* value) {
  const uint16_t bits = static_cast<uint16_t>(p[0] | p[1] << 8);
  *value = float_of_half(bits);
  return (bits & 0x7c00) != 0x7c00;  // finite
}

// Two, one after the other.
bool halves_at(const uint8_t* p, float* first, float* second) {
  const bool good = half_at(p, first);
  return half_at(p + 2, second) && good;
}

bool factors_i2_s(const Stored& s, size_t, float* scale, float*) {
  memcpy(scale, s.data + s.rows * s.columns / 4, 4);
  uint32_t bits;
  memcpy(&bits, scale, 4);
  return (bits & 0x7f800000) != 0x7f800000;
}

// The float16 scale of each block, at byte At.
template <size_t At>
bool factors_d(const Stored& s, size_t n, float* scale, float*) {
  const uint8_t* block = s.blocks(n);
  bool good = half_at(block + At, scale);
  for (size_t b = 1; b < s.row_blocks(); ++b) {
    const uint8_t* last = block;
    block += s.format->block_bytes;
    if (block[At] == last[At] && block[At + 1] == last[At + 1])  // as a rule, of ternary rows
      scale[b] = scale[b - 1];
    else
      good &= half_at(block + At, scale + b);
  }
  return good;
}

// A float16 scale and a float16 minimum, the first four bytes of each block.
bool factors_dm(const Stored& s, size_t n, float* scale, float* minimum) {
  const uint8_t* block = s.blocks(n);
  bool good = true;
  for (size_t b = 0; b < s.row_blocks(); ++b, block += s.format->block_bytes)
    good &= halves_at(block, scale + b, minimum + b);
  return good;
}

bool factors_q2_k(const Stored& s, size_t n, float* scale, float* minimum) {
  const uint8_t* block = s.blocks(n);
  bool good = true;
  for (size_t b = 0; b < s.row_blocks(); ++b, block += 84) {
    float d, dmin;
    good &= halves_at(block + 80, &d, &dmin);
    for (size_t g = 0; g < 16; ++g) {
      scale[16 * b + g] = d * static_cast<float>(block[g] & 15);
      minimum[16 * b + g] = -(dmin * static_cast<float>(block[g] >> 4));
    }
  }
  return good;
}

// Sixteen scales 0..63: low four bits in bytes 0 to 7, upper two in bytes 8 to 11.
bool factors_q3_k(const Stored& s, size_t n, float* scale, float*) {
  const uint8_t* block = s.blocks(n);
  bool good = true;
  for (size_t b = 0; b < s.row_blocks(); ++b, block += 110) {
    const uint8_t* packed = block + 96;
    float d;
    good &= half_at(block + 108, &d);
    for (size_t g = 0; g < 16; ++g) {
      const int low = packed[g % 8] >> (4 * (g / 8)) & 15;
      const int high = packed[8 + g % 4] >> (2 * (g / 4)) & 3;
      scale[16 * b + g] = d * static_cast<float>((low | high << 4) - 32);
    }
  }
  return good;
}

// q4_k and q5_k: d, dmin, then eight scales and eight minima of six bits in twelve bytes.
bool factors_q45_k(const Stored& s, size_t n, float* scale, float* minimum) {
  const uint8_t* block = s.blocks(n);
  bool good = true;
  for (size_t b = 0; b < s.row_blocks(); ++b, block += s.format->block_bytes) {
    const uint8_t* packed = block + 4;
    float d, dmin;
    good &= halves_at(block, &d, &dmin);
    for (size_t g = 0; g < 8; ++g) {
      const int of_scale = g < 4 ? packed[g] & 63 : (packed[g + 4] & 15) | packed[g - 4] >> 6 << 4;
      const int of_minimum = g < 4 ? packed[g + 4] & 63 : packed[g + 4] >> 4 | packed[g] >> 6 << 4;
      scale[8 * b + g] = d * static_cast<float>(of_scale);
      minimum[8 * b + g] = -(dmin * static_cast<float>(of_minimum));
    }
  }
  return good;
}

bool factors_q6_k(const Stored& s, size_t n, float* scale, float*) {
  const uint8_t* block = s.blocks(n);
  bool good = true;
  for (size_t b = 0; b < s.row_blocks(); ++b, block += 210) {
    float d;
    good &= half_at(block + 208, &d);
    for (size_t g = 0; g < 16; ++g)
      scale[16 * b + g] = d * static_cast<float>(static_cast<int8_t>(block[192 + g]));
  }
  return good;
}

// --- codes, where a row is a run of bytes and what is left of the last one is padding

// Nonzero where a byte holds a bit pair 3.
uint8_t pair_3(uint8_t byte) { return byte & (byte >> 1) & 0x55; }

// Nonzero where a byte is none of the 243 that five trits make. A byte is the ceiling of
// q * 256 / 243 for some q just if 243 * byte leaves at most 242 when divided by 256, that is if
// 13 * byte does not leave 1 to 13.
uint8_t not_trits(uint8_t byte) { return static_cast<uint8_t>(13 * byte - 1) < 13; }

void split_t2(uint8_t byte, int8_t* codes) {
  for (int i = 0; i < 4; ++i) codes[i] = static_cast<int8_t>((byte >> (2 * i) & 3) - 1);
}

void split_b1(uint8_t byte, int8_t* codes) {
  for (int i = 0; i < 8; ++i) codes[i] = static_cast<int8_t>(2 * (byte >> i & 1) - 1);
}

void split_i4(uint8_t byte, int8_t* codes) {
  codes[0] = static_cast<int8_t>((byte & 15) - 8);
  codes[1] = static_cast<int8_t>((byte >> 4) - 8);
}

void split_i8(uint8_t byte, int8_t* code) { *code = static_cast<int8_t>(byte); }

uint8_t never(uint8_t) { return 0; }

template <size_t PerByte, int Pad, void (*Split)(uint8_t, int8_t*), uint8_t (*Bad)(uint8_t)>
bool codes_of_bytes(const Stored& s, size_t n, int8_t* codes) {
  const size_t whole = s.columns / PerByte, left = s.columns % PerByte;
  const uint8_t* row = s.data + n * (whole + (left != 0));
  uint8_t bad = 0;
  for (size_t b = 0; b < whole; ++b) {
    bad |= Bad(row[b]);
    Split(row[b], codes + PerByte * b);
  }
  if (left) {
    int8_t last[PerByte];
    bad |= Bad(row[whole]);
    Split(row[whole], last);
    memcpy(codes + PerByte * whole, last, left);
    for (size_t i = left; i < PerByte; ++i) bad |= last[i] != Pad;
  }
  return !bad;
}

// The five codes of each byte, in the first bytes of a word.
struct TritTable {
  uint64_t codes[256];

  TritTable() {
    for (int byte = 0; byte < 256; ++byte) {
      int8_t five[8] = {};
      int rest = byte;
      for (int n = 0; n < 5; ++n) {
        five[n] = static_cast<int8_t>((rest * 3 >> 8) - 1);
        rest = rest * 3 & 255;
      }
      memcpy(codes + byte, five, 8);
    }
  }
};

bool codes_t1_6(const Stored& s, size_t n, int8_t* codes) {
  static const TritTable table;
  const size_t row_bytes = (s.columns + 4) / 5;
  const uint8_t* row = s.data + n * row_bytes;
  uint8_t bad = 0;
  for (size_t b = 0; b < row_bytes; ++b) bad |= not_trits(row[b]);
  size_t b = 0;
  for (; 5 * b + 8 <= s.columns; ++b) memcpy(codes + 5 * b, table.codes + row[b], 8);
  for (; b < row_bytes; ++b) {
    int8_t five[8];
    memcpy(five, table.codes + row[b], 8);
    for (size_t i = 0; i < 5; ++i)
      if (5 * b + i < s.columns)
        codes[5 * b + i] = five[i];
      else
        bad |= five[i] != 0;  // padding is code 0
  }
  return !bad;
}

// Eight codes in Bits bytes, a string of bits whose end is 0 up to a whole byte.
template <size_t Bits>
bool codes_of_bits(const Stored& s, size_t n, int8_t* codes) {
  constexpr uint64_t mask = (1u << Bits) - 1;
  constexpr int low = 1 << (Bits - 1);
  const size_t row_bytes = (s.columns * Bits + 7) / 8;
  const uint8_t* row = s.data + n * row_bytes;
  size_t k = 0, b = 0;
  const auto split = [&](uint64_t word, int8_t* out) {
    for (size_t j = 0; j < 8; ++j)
      out[j] = static_cast<int8_t>(static_cast<int>(word >> (Bits * j) & mask) - low);
  };
  for (; k + 8 <= s.columns; k += 8, b += Bits) {
    uint64_t word = 0;
    memcpy(&word, row + b, Bits);
    split(word, codes + k);
  }
  if (k == s.columns) return true;
  uint64_t word = 0;
  int8_t last[8];
  memcpy(&word, row + b, row_bytes - b);
  split(word, last);
  memcpy(codes + k, last, s.columns - k);
  return word >> (Bits * (s.columns - k)) == 0;
}

template <size_t Bits>
size_t bytes_of_bits(size_t N, size_t K) {
  return N * ((K * Bits + 7) / 8);
}

template <size_t PerByte>
size_t bytes_of_rows(size_t N, size_t K) {
  return N * ((K + PerByte - 1) / PerByte);
}

// --- codes of blocks; each function unpacks one

template <bool (*Block)(const uint8_t* block, int8_t* codes)>
bool codes_of_blocks(const Stored& s, size_t n, int8_t* codes) {
  const uint8_t* block = s.blocks(n);
  bool good = true;
  for (size_t b = 0; b < s.row_blocks(); ++b) {
    good &= Block(block, codes);
    block += s.format->block_bytes;
    codes += s.format->columns;
  }
  return good;
}

bool block_tq1_0(const uint8_t* block, int8_t* codes) {
  // Bytes of `width` from `byte` hold `planes` planes of as many columns from `column`.
  static constexpr struct { size_t byte, width, column, planes; } kRuns[] = {
      {0, 32, 0, 5}, {32, 16, 160, 5}, {48, 4, 240, 4}};
  for (const auto& run : kRuns) {
    uint8_t bytes[32];
    memcpy(bytes, block + run.byte, run.width);
    for (size_t p = 0; p < run.planes; ++p)
      for (size_t m = 0; m < run.width; ++m) {
        codes[run.column + p * run.width + m] =
            static_cast<int8_t>((bytes[m] > 85) + (bytes[m] > 170) - 1);  // 3 * byte / 256
        bytes[m] = static_cast<uint8_t>(3 * bytes[m]);
      }
  }
  return true;
}

// A run of 32 bytes as four planes of 32 columns of two bits, the first in the bits from First up
// and each next one Step bits further.
template <int First, int Step>
bool planes_of_pairs(const uint8_t* data, int8_t* codes) {
  uint8_t bad = 0;
  for (int p = 0; p < 4; ++p)
    for (int m = 0; m < 32; ++m)
      codes[32 * p + m] = static_cast<int8_t>((data[m] >> (First + p * Step) & 3) - 1);
  for (int m = 0; m < 32; ++m) bad |= pair_3(data[m]);
  return !bad;
}

bool block_tq2_0(const uint8_t* block, int8_t* codes) {
  const bool good = planes_of_pairs<0, 2>(block, codes);
  return planes_of_pairs<0, 2>(block + 32, codes + 128) && good;
}

bool block_i2_s(const uint8_t* block, int8_t* codes) {
  return planes_of_pairs<6, -2>(block, codes);
}

template <size_t Columns>
bool block_q2_0(const uint8_t* block, int8_t* codes) {
  for (size_t b = 0; b < Columns / 4; ++b) split_t2(block[2 + b], codes + 4 * b);
  return true;
}

bool block_q1_0(const uint8_t* block, int8_t* codes) {
  for (size_t b = 0; b < 16; ++b) split_b1(block[2 + b], codes + 8 * b);
  return true;
}

// 32 columns: halves in 16 bytes from Halves on, fifth bits in four from Fifth on, if there are
// any; Low is taken away.
template <size_t Halves, size_t Fifth, int Low>
bool block_of_32(const uint8_t* block, int8_t* codes) {
  const uint8_t* data = block + Halves;
  for (int j = 0; j < 16; ++j) {
    codes[j] = static_cast<int8_t>((data[j] & 15) - Low);
    codes[16 + j] = static_cast<int8_t>((data[j] >> 4) - Low);
  }
  if (Fifth)
    for (int i = 0; i < 32; ++i)
      codes[i] = static_cast<int8_t>(codes[i] + (block[Fifth + i / 8] >> (i % 8) & 1) * 16);
  return true;
}

bool block_q8_0(const uint8_t* block, int8_t* codes) {
  memcpy(codes, block + 2, 32);
  return true;
}

// Two runs of 32 bytes, each four planes of two bits.
void planes_2(const uint8_t* data, int8_t* codes) {
  for (int run = 0; run < 2; ++run)
    for (int p = 0; p < 4; ++p)
      for (int m = 0; m < 32; ++m)
        codes[128 * run + 32 * p + m] = static_cast<int8_t>(data[32 * run + m] >> (2 * p) & 3);
}

// Four runs of 32 bytes, each two planes of four bits.
void planes_4(const uint8_t* data, int8_t* codes) {
  for (int run = 0; run < 4; ++run)
    for (int m = 0; m < 32; ++m) {
      codes[64 * run + m] = static_cast<int8_t>(data[32 * run + m] & 15);
      codes[64 * run + 32 + m] = static_cast<int8_t>(data[32 * run + m] >> 4);
    }
}

// Eight planes of one bit, added as Value.
template <int Value>
void add_planes_1(const uint8_t* data, int8_t* codes) {
  for (int p = 0; p < 8; ++p)
    for (int m = 0; m < 32; ++m)
      codes[32 * p + m] = static_cast<int8_t>(codes[32 * p + m] + (data[m] >> p & 1) * Value);
}

bool block_q2_k(const uint8_t* block, int8_t* codes) {
  planes_2(block + 16, codes);
  return true;
}

bool block_q3_k(const uint8_t* block, int8_t* codes) {
  planes_2(block + 32, codes);
  add_planes_1<4>(block, codes);
  for (int i = 0; i < 256; ++i) codes[i] = static_cast<int8_t>(codes[i] - 4);
  return true;
}

bool block_q4_k(const uint8_t* block, int8_t* codes) {
  planes_4(block + 16, codes);
  return true;
}

bool block_q5_k(const uint8_t* block, int8_t* codes) {
  planes_4(block + 48, codes);
  add_planes_1<16>(block + 16, codes);
  return true;
}

// Two runs of 128 columns: low halves in 64 bytes, two planes; upper pairs in 32, four planes.
bool block_q6_k(const uint8_t* block, int8_t* codes) {
  for (int run = 0; run < 2; ++run) {
    const uint8_t *low = block + 64 * run, *high = block + 128 + 32 * run;
    for (int p = 0; p < 4; ++p)
      for (int m = 0; m < 32; ++m) {
        const int half = low[32 * (p % 2) + m] >> (4 * (p / 2)) & 15;
        codes[128 * run + 32 * p + m] =
            static_cast<int8_t>((half | (high[m] >> (2 * p) & 3) << 4) - 32);
      }
  }
  return true;
}

// --- two formats that are neither

size_t size_i2_s(size_t N, size_t K) { return N * K / 4 + 32; }

bool codes_i2_s(const Stored& s, size_t n, int8_t* codes) {
  const uint8_t* block = s.data + n * s.columns / 4;
  bool good = true;
  for (size_t k = 0; k < s.columns; k += 128, block += 32) good &= block_i2_s(block, codes + k);
  return good;
}

size_t size_hf_2bit(size_t N, size_t K) { return (N + 3) / 4 * K; }

bool codes_hf_2bit(const Stored& s, size_t n, int8_t* codes) {
  const size_t R = (s.rows + 3) / 4;
  const uint8_t* row = s.data + n % R * s.columns;
  const int shift = static_cast<int>(2 * (n / R));
  uint8_t bad = 0;
  for (size_t k = 0; k < s.columns; ++k) {
    bad |= pair_3(row[k]);
    codes[k] = static_cast<int8_t>((row[k] >> shift & 3) - 1);
  }
  // Where a packed row has fewer than four, the bits of those it lacks are 0.
  size_t held = 0;
  while (held < 4 && held * R + n % R < s.rows) ++held;
  if (held < 4)
    for (size_t k = 0; k < s.columns; ++k) bad |= row[k] >> (2 * held);
  return !bad;
}

// --- the table

template <size_t Columns, size_t Bytes>
size_t bytes_of_blocks(size_t N, size_t K) {
  return N * (K / Columns) * Bytes;
}

template <size_t Columns, size_t Bytes, size_t Groups, bool (*Block)(const uint8_t*, int8_t*)>
constexpr StoredFormat blocks(const char* name, int least, int greatest,
                              decltype(StoredFormat::factors) factors, bool has_minimum = false) {
  return {name,     Columns,  Bytes, Groups, has_minimum, least,
          greatest, true,     bytes_of_blocks<Columns, Bytes>,
          codes_of_blocks<Block>, factors};
}

constexpr StoredFormat without_zero(StoredFormat format) {
  format.zero = false;
  return format;
}

constexpr StoredFormat apart(const char* name, int least, int greatest,
                             decltype(StoredFormat::size_bytes) size_bytes,
                             decltype(StoredFormat::codes) codes) {
  return {name, 1, 0, 0, false, least, greatest, true, size_bytes, codes, factors_apart};
}

const StoredFormat kFormats[] = {
    apart("t2", -1, 1, bytes_of_rows<4>, codes_of_bytes<4, 0, split_t2, pair_3>),
    apart("t1_6", -1, 1, bytes_of_rows<5>, codes_t1_6),
    without_zero(apart("b1", -1, 1, bytes_of_rows<8>, codes_of_bytes<8, -1, split_b1, never>)),
    apart("i2", -2, 1, bytes_of_bits<2>, codes_of_bits<2>),
    apart("i3", -4, 3, bytes_of_bits<3>, codes_of_bits<3>),
    apart("i5", -16, 15, bytes_of_bits<5>, codes_of_bits<5>),
    apart("i6", -32, 31, bytes_of_bits<6>, codes_of_bits<6>),
    apart("i7", -64, 63, bytes_of_bits<7>, codes_of_bits<7>),
    apart("i4", -8, 7, bytes_of_rows<2>, codes_of_bytes<2, 0, split_i4, never>),
    apart("i8", -128, 127, bytes_of_rows<1>, codes_of_bytes<1, 0, split_i8, never>),
    apart("hf_2bit", -1, 1, size_hf_2bit, codes_hf_2bit),
    {"i2_s", 128, 0, 0, false, -1, 1, true, size_i2_s, codes_i2_s, factors_i2_s},
    blocks<256, 54, 1, block_tq1_0>("tq1_0", -1, 1, factors_d<52>),
    blocks<256, 66, 1, block_tq2_0>("tq2_0", -1, 1, factors_d<64>),
    without_zero(blocks<128, 18, 1, block_q1_0>("q1_0", -1, 1, factors_d<0>)),
    blocks<64, 18, 1, block_q2_0<64>>("q2_0", -1, 2, factors_d<0>),
    blocks<128, 34, 1, block_q2_0<128>>("q2_0_g128", -1, 2, factors_d<0>),
    blocks<32, 18, 1, block_of_32<2, 0, 8>>("q4_0", -8, 7, factors_d<0>),
    blocks<32, 20, 1, block_of_32<4, 0, 0>>("q4_1", 0, 15, factors_dm, true),
    blocks<32, 22, 1, block_of_32<6, 2, 16>>("q5_0", -16, 15, factors_d<0>),
    blocks<32, 24, 1, block_of_32<8, 4, 0>>("q5_1", 0, 31, factors_dm, true),
    blocks<32, 34, 1, block_q8_0>("q8_0", -128, 127, factors_d<0>),
    blocks<256, 84, 16, block_q2_k>("q2_k", 0, 3, factors_q2_k, true),
    blocks<256, 110, 16, block_q3_k>("q3_k", -4, 3, factors_q3_k),
    blocks<256, 144, 8, block_q4_k>("q4_k", 0, 15, factors_q45_k, true),
    blocks<256, 176, 8, block_q5_k>("q5_k", 0, 31, factors_q45_k, true),
    blocks<256, 210, 16, block_q6_k>("q6_k", -32, 31, factors_q6_k),
};

}  // namespace

bool factors_apart(const Stored& s, size_t n, float* scale, float* minimum) {
  memcpy(scale, s.scale + n * s.scale_groups, s.scale_groups * sizeof(float));
  if (s.minimum) memcpy(minimum, s.minimum + n * s.scale_groups, s.scale_groups * sizeof(float));
  return true;  // finite, as the caller has checked
}

bool Stored::codes(size_t n, int8_t* codes) const {
  if (!format->codes(*this, n, codes)) return false;
  if (!zero) return true;
  const size_t group = columns / scale_groups;
  for (size_t g = 0; g < scale_groups; ++g, codes += group) {
    const int8_t from = zero[n * scale_groups + g];
    for (size_t k = 0; k < group; ++k) codes[k] = static_cast<int8_t>(codes[k] - from);
  }
  return true;
}

const StoredFormat* find_stored_format(const char* name) {
  for (const StoredFormat& format : kFormats)
    if (!strcmp(format.name, name)) return &format;
  return nullptr;
}

}  // namespace onebit
