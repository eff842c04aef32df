// How a cache of 8, 4 or 3 bits lies in memory.
//
// Positions are taken 16 at a time, a tile. Its codes come in units of 16 lanes by 16 columns: for
// keys the lanes are positions and the columns 16 of the dimensions, for values the lanes are 16 of
// the dimensions and the columns positions. Column 4 m + j of a lane is byte j of that lane's four
// bytes in vector m, as dot products want it, and narrower codes share bytes:
//   8 bits   4 vectors of 64 bytes a unit
//   4 bits   2: vectors 2 b and 2 b + 1 in the low and high halves of vector b
//   3 bits   1 with the low bits of vector m in bits 2 m and 2 m + 1, and a half: the third bits of
//            two units share a vector, those of vector m of unit u in bit m + 4 (u % 2)
// After the codes: scale [16] and minimum [16] of the positions, in half precision.
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace onebit {

constexpr size_t kv_units(size_t head_dim, int bits) {
  return bits == 3 ? (head_dim + 31) / 32 * 2 : (head_dim + 15) / 16;
}
constexpr size_t kv_code_bytes(size_t head_dim, int bits) {
  return kv_units(head_dim, bits) * (bits == 8 ? 256 : bits == 4 ? 128 : 96);
}
constexpr size_t kv_tile_bytes(size_t head_dim, int bits) {
  return kv_code_bytes(head_dim, bits) + 64;
}

// Puts a code into a tile, over the one that was there.
inline void put_kv_code(uint8_t* tile, int bits, size_t unit, size_t lane, size_t column,
                        unsigned code) {
  const size_t m = column / 4, at = 4 * lane + column % 4;
  const auto put = [](uint8_t* byte, unsigned shift, unsigned mask, unsigned value) {
    *byte = static_cast<uint8_t>((*byte & ~(mask << shift)) | value << shift);
  };
  if (bits == 8) {
    tile[256 * unit + 64 * m + at] = static_cast<uint8_t>(code);
  } else if (bits == 4) {
    put(tile + 128 * unit + 64 * (m / 2) + at, 4 * (m % 2), 15, code);
  } else {
    uint8_t* pair = tile + 192 * (unit / 2);
    put(pair + 64 * (unit % 2) + at, 2 * m, 3, code & 3);
    put(pair + 128 + at, m + 4 * (unit % 2), 1, code >> 2);
  }
}

}  // namespace onebit
