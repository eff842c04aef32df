// Codes of four to eight bits into the layouts i4, i6 and i8.
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

// Two runs of 128 columns, each four planes of 32: see unpack_rows.cpp. Sixteen columns of a plane
// are a unit of the layout.
bool i6_of_q6_k(const Stored& s, size_t n, uint8_t* tile) {
  return each_block<48>(s, n, tile, [](const uint8_t* p, size_t stride, uint8_t* out) {
    for (int run = 0; run < 2; ++run)
      for (int part = 0; part < 2; ++part) {
        const uint8_t* low = p + 64 * run + 16 * part;
        const Four halves[] = {four_of_rows(low, stride), four_of_rows(low + 32, stride)};
        const Four high = four_of_rows(p + 128 + 32 * run + 16 * part, stride);
        for (int plane = 0; plane < 4; ++plane) {
          uint8_t* unit = out + 192 * (8 * run + 2 * plane + part);
          const Words* w = halves[plane % 2].w;
          Words pairs = {};
          for (int i = 0; i < 2; ++i) {
            const Words a = w[2 * i], b = w[2 * i + 1];
            put(unit + 64 * i, plane < 2 ? (a & kHalves) | (b & kHalves) << 4
                                         : (a >> 4 & kHalves) | (b & ~kHalves));
          }
          for (int m = 0; m < 4; ++m) pairs |= (high.w[m] >> 2 * plane & 0x03030303) << 2 * m;
          put(unit + 128, pairs);
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
              {"q6_k", Layout::i6, i6_of_q6_k}};
  if (layout != Layout::i8 && low != s.format->least) return nullptr;
  for (const auto& way : ways)
    if (layout == way.layout && !strcmp(way.format, s.format->name)) return way.fn;
  return nullptr;
}

}  // namespace onebit
