#include "unpack_tiles.h"

#include <string.h>

#include "four_rows.h"
#include "ops.h"

namespace onebit {
namespace {

Words pair_3(Words w) { return w & (w >> 1) & 0x55555555; }

bool any(Words w) { return w[0] | w[1] | w[2] | w[3]; }

// Exchanges bit pairs between words: pair p of word m goes to pair m of word p.
void transpose_pairs(Words* w) {
  for (int m = 0; m < 2; ++m) {
    const Words t = ((w[m] >> 4) ^ w[m + 2]) & 0x0f0f0f0f;
    w[m + 2] ^= t;
    w[m] ^= t << 4;
  }
  for (int m = 0; m < 4; m += 2) {
    const Words t = ((w[m] >> 2) ^ w[m + 1]) & 0x33333333;
    w[m + 1] ^= t;
    w[m] ^= t << 2;
  }
}

// Exchanges bit pairs between the bytes of a word: pair p of byte m goes to pair m of byte p.
Words transpose_bytes(Words w) {
  Words t = (w ^ (w >> 12)) & 0x0000f0f0;
  w ^= t ^ (t << 12);
  t = (w ^ (w >> 6)) & 0x00cc00cc;
  return w ^ t ^ (t << 6);
}

// A run of 32 bytes as planes of 32 columns in the four bit pairs of each byte: vectors 0 to 7 of
// the tile. `Last`: the first plane is in the highest pair.
template <bool Last>
Words run_of_planes(const uint8_t* p, size_t stride, uint8_t* tile) {
  Words bad = {};
  for (int part = 0; part < 2; ++part) {
    Four four = four_of_rows(p + 16 * part, stride);
    for (Words w : four.w) bad |= pair_3(w);
    transpose_pairs(four.w);
    for (int plane = 0; plane < 4; ++plane)
      put(tile + 64 * (2 * plane + part), four.w[Last ? 3 - plane : plane]);
  }
  return bad;
}

bool t2_of_tq2_0(const Stored& s, size_t n, uint8_t* tile) {
  const size_t stride = s.row_blocks() * 66;
  Words bad = {};
  for (size_t r = 0; r < kTileRows; r += 4)
    for (size_t b = 0; b < s.row_blocks(); ++b) {
      const uint8_t* p = s.blocks(n + r) + 66 * b;
      uint8_t* out = tile + 1024 * b + 4 * r;
      bad |= run_of_planes<false>(p, stride, out) | run_of_planes<false>(p + 32, stride, out + 512);
    }
  return !any(bad);
}

bool t2_of_i2_s(const Stored& s, size_t n, uint8_t* tile) {
  const size_t stride = s.columns / 4;
  Words bad = {};
  for (size_t r = 0; r < kTileRows; r += 4)
    for (size_t b = 0; b < s.columns / 128; ++b)
      bad |= run_of_planes<true>(s.data + (n + r) * stride + 32 * b, stride,
                                 tile + 512 * b + 4 * r);
  return !any(bad);
}

// `count` words of each row, a vector each, with neighbouring columns in a byte.
Words neighbours(const uint8_t* p, size_t stride, size_t count, uint8_t* tile) {
  Words bad = {};
  size_t i = 0;
  for (; i + 4 <= count; i += 4) {
    const Four four = four_of_rows(p + 4 * i, stride);
    for (int m = 0; m < 4; ++m) {
      bad |= pair_3(four.w[m]);
      put(tile + 64 * (i + m), transpose_bytes(four.w[m]));
    }
  }
  for (; i < count; ++i) {
    const Words w = word_of_rows(p + 4 * i, stride);
    bad |= pair_3(w);
    put(tile + 64 * i, transpose_bytes(w));
  }
  return bad;
}

bool t2_of_t2(const Stored& s, size_t n, uint8_t* tile) {
  const size_t stride = s.columns / 4;
  Words bad = {};
  for (size_t r = 0; r < kTileRows; r += 4)
    bad |= neighbours(s.data + (n + r) * stride, stride, s.columns / 16, tile + 4 * r);
  return !any(bad);
}

// q2_0, whose code 2 is the pair 3.
bool t2_of_q2_0(const Stored& s, size_t n, uint8_t* tile) {
  const size_t size = s.format->block_bytes, stride = s.row_blocks() * size;
  const size_t words = s.format->columns / 16;
  Words bad = {};
  for (size_t r = 0; r < kTileRows; r += 4)
    for (size_t b = 0; b < s.row_blocks(); ++b)
      bad |= neighbours(s.blocks(n + r) + size * b + 2, stride, words,
                        tile + 64 * words * b + 4 * r);
  return !any(bad);
}

// The first trit of each byte, 0 to 2: the integer part of three times the byte over 256.
Words first_trits(Bytes v) {
  const Bytes trits = Bytes{} - reinterpret_cast<Bytes>(v > 85) - reinterpret_cast<Bytes>(v > 170);
  return reinterpret_cast<Words>(trits);
}

Bytes shift_trits(Bytes v) { return v + v + v; }

bool t2_of_tq1_0(const Stored& s, size_t n, uint8_t* tile) {
  const size_t stride = s.row_blocks() * 54;
  for (size_t r = 0; r < kTileRows; r += 4)
    for (size_t b = 0; b < s.row_blocks(); ++b) {
      const uint8_t* p = s.blocks(n + r) + 54 * b;
      uint8_t* out = tile + 1024 * b + 4 * r;
      // Three runs of 16 bytes, whose planes are the vectors 0, 2 .. 8, then 1, 3 .. 9, then
      // 10 .. 14; the four bytes after them are the pairs of vector 15.
      for (int run = 0; run < 3; ++run) {
        const Four four = four_of_rows(p + 16 * run, stride);
        Bytes v[4];
        memcpy(v, four.w, sizeof v);
        for (int plane = 0; plane < 5; ++plane) {
          Words pairs = {};
          for (int m = 0; m < 4; ++m) {
            pairs |= first_trits(v[m]) << (2 * m);
            v[m] = shift_trits(v[m]);
          }
          put(out + 64 * (run < 2 ? 2 * plane + run : 10 + plane), pairs);
        }
      }
      Bytes v = reinterpret_cast<Bytes>(word_of_rows(p + 48, stride));
      Words pairs = {};
      for (int m = 0; m < 4; ++m) {
        pairs |= first_trits(v) << (2 * m);
        v = shift_trits(v);
      }
      put(out + 64 * 15, pairs);
    }
  return true;
}

// The same bytes in memory as in the file. Bytes that are none of the 243 are refused: see
// unpack_rows.cpp.
bool t1_6_of_t1_6(const Stored& s, size_t n, uint8_t* tile) {
  const size_t stride = (s.columns + 4) / 5, left = s.columns % 5;
  Bytes bad = {};
  const auto check = [&](Words w) {
    const auto v = reinterpret_cast<Bytes>(w);
    const Bytes v4 = v + v + v + v;
    bad |= reinterpret_cast<Bytes>(v + v4 + v4 + v4 - 1 < 13);
  };
  for (size_t r = 0; r < kTileRows; r += 4) {
    const uint8_t* p = s.data + (n + r) * stride;
    uint8_t* out = tile + 4 * r;
    size_t b = 0;
    for (; b + 16 <= stride; b += 16) {
      const Four four = four_of_rows(p + b, stride);
      for (int m = 0; m < 4; ++m) {
        check(four.w[m]);
        put(out + 16 * b + 64 * m, four.w[m]);
      }
    }
    for (; b < stride; b += 4) {  // at the end perhaps fewer than four bytes
      uint8_t last[16] = {};
      const size_t count = stride - b < 4 ? stride - b : 4;
      for (size_t i = 0; i < 4; ++i) memcpy(last + 4 * i, p + i * stride + b, count);
      check(words_at(last));
      put(out + 16 * b, words_at(last));
    }
    if (left)
      for (size_t i = 0; i < 4; ++i) {
        uint8_t byte = p[i * stride + stride - 1];
        for (size_t digit = 0; digit < 5; ++digit) {
          if (digit >= left) bad[0] |= byte * 3 >> 8 != 1;  // padding is code 0
          byte = static_cast<uint8_t>(3 * byte);
        }
      }
  }
  return !any(reinterpret_cast<Words>(bad));
}

}  // namespace

TileFn ternary_way(const Stored& s, Layout layout) {
  static const struct {
    const char* format;
    TileFn fn;
  } ways[] = {{"t2", t2_of_t2},       {"i2_s", t2_of_i2_s}, {"tq1_0", t2_of_tq1_0},
              {"tq2_0", t2_of_tq2_0}, {"q2_0", t2_of_q2_0}, {"q2_0_g128", t2_of_q2_0}};
  if (layout == Layout::t1_6) return strcmp(s.format->name, "t1_6") ? nullptr : t1_6_of_t1_6;
  if (layout != Layout::t2 || s.columns % 16) return nullptr;
  for (const auto& way : ways)
    if (!strcmp(way.format, s.format->name)) return way.fn;
  return nullptr;
}

}  // namespace onebit
