// Codes of four to eight bits into the layouts i4 and i8.
#include <string.h>

#include "four_rows.h"
#include "unpack_tiles.h"

namespace onebit {
namespace {

constexpr uint32_t kHalves = 0x0f0f0f0f;  // the low half of each byte

// Calls block(p, stride, out) for each block of four rows at a time; `out` is where the block's
// vectors are in the tile, `vectors` of them.
template <size_t Vectors, class F>
bool each_block(const Stored& s, size_t n, uint8_t* tile, F&& block) {
  const size_t size = s.format->block_bytes, stride = s.row_blocks() * size;
  for (size_t r = 0; r < kTileRows; r += 4)
    for (size_t b = 0; b < s.row_blocks(); ++b)
      block(s.blocks(n + r) + size * b, stride, tile + 64 * Vectors * b + 4 * r);
  return true;
}

// Two planes of columns in the halves of 16 bytes: a vector holds eight columns of a plane.
void put_planes(const Four& four, uint8_t* first, uint8_t* second) {
  for (int i = 0; i < 2; ++i) {
    const Words a = four.w[2 * i], b = four.w[2 * i + 1];
    put(first + 64 * i, (a & kHalves) | (b & kHalves) << 4);
    put(second + 64 * i, (a >> 4 & kHalves) | (b & ~kHalves));
  }
}

// q4_0 and q4_1: halves from byte At on.
template <size_t At>
bool i4_of_q4(const Stored& s, size_t n, uint8_t* tile) {
  return each_block<4>(s, n, tile, [](const uint8_t* p, size_t stride, uint8_t* out) {
    put_planes(four_of_rows(p + At, stride), out, out + 128);
  });
}

bool i4_of_q4_k(const Stored& s, size_t n, uint8_t* tile) {
  return each_block<32>(s, n, tile, [](const uint8_t* p, size_t stride, uint8_t* out) {
    for (int run = 0; run < 4; ++run)
      for (int part = 0; part < 2; ++part) {
        uint8_t* at = out + 64 * (8 * run + 2 * part);
        put_planes(four_of_rows(p + 16 + 32 * run + 16 * part, stride), at, at + 256);
      }
  });
}

bool i8_of_q8_0(const Stored& s, size_t n, uint8_t* tile) {
  return each_block<8>(s, n, tile, [](const uint8_t* p, size_t stride, uint8_t* out) {
    for (int part = 0; part < 2; ++part) {
      const Four four = four_of_rows(p + 2 + 16 * part, stride);
      for (int m = 0; m < 4; ++m) put(out + 64 * (4 * part + m), four.w[m] ^ 0x80808080);
    }
  });
}

// Two runs of 128 columns, each four planes of 32: see unpack_rows.cpp. A code is six bits less
// 32, and is stored plus 128.
bool i8_of_q6_k(const Stored& s, size_t n, uint8_t* tile) {
  return each_block<64>(s, n, tile, [](const uint8_t* p, size_t stride, uint8_t* out) {
    for (int run = 0; run < 2; ++run)
      for (int part = 0; part < 2; ++part) {
        const uint8_t* low = p + 64 * run + 16 * part;
        const Four even = four_of_rows(low, stride), odd = four_of_rows(low + 32, stride);
        const Four high = four_of_rows(p + 128 + 32 * run + 16 * part, stride);
        for (int m = 0; m < 4; ++m) {
          const Words upper = high.w[m], planes[] = {
              (even.w[m] & kHalves) | (upper << 4 & 0x30303030),
              (odd.w[m] & kHalves) | (upper << 2 & 0x30303030),
              (even.w[m] >> 4 & kHalves) | (upper & 0x30303030),
              (odd.w[m] >> 4 & kHalves) | (upper >> 2 & 0x30303030)};
          for (int plane = 0; plane < 4; ++plane)  // no byte passes 255
            put(out + 64 * (32 * run + 8 * plane + 4 * part + m), planes[plane] + 0x60606060);
        }
      }
  });
}

}  // namespace

TileFn wide_way(const Stored& s, Layout layout, int32_t low) {
  static const struct {
    const char* format;
    Layout layout;
    TileFn fn;
  } ways[] = {{"q4_0", Layout::i4, i4_of_q4<2>}, {"q4_1", Layout::i4, i4_of_q4<4>},
              {"q4_k", Layout::i4, i4_of_q4_k}, {"q8_0", Layout::i8, i8_of_q8_0},
              {"q6_k", Layout::i8, i8_of_q6_k}};
  if (layout == Layout::i4 && low != s.format->least) return nullptr;
  for (const auto& way : ways)
    if (layout == way.layout && !strcmp(way.format, s.format->name)) return way.fn;
  return nullptr;
}

}  // namespace onebit
