// Four rows of bytes side by side, each in a lane of four bytes, as they stand in a tile.
// The compiler makes one instruction of each operation where the CPU has vectors of 16 bytes.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>

namespace onebit {

using Words = uint32_t __attribute__((vector_size(16)));
using Bytes = uint8_t __attribute__((vector_size(16)));

inline Words words_at(const uint8_t* p) {
  Words w;
  memcpy(&w, p, 16);
  return w;
}

inline void put(uint8_t* p, Words w) { memcpy(p, &w, 16); }

// Bytes 4m to 4m + 3 at p of each of four rows, `stride` apart.
inline Words word_of_rows(const uint8_t* p, size_t stride) {
  Words w;
  for (int r = 0; r < 4; ++r) {
    uint32_t word;
    memcpy(&word, p + r * stride, 4);
    w[r] = word;
  }
  return w;
}

// Four such words in a row: w[m] has bytes 4m to 4m + 3 of each row.
struct Four {
  Words w[4];
};

inline Four four_of_rows(const uint8_t* p, size_t stride) {
  const Words a = words_at(p), b = words_at(p + stride), c = words_at(p + 2 * stride),
              d = words_at(p + 3 * stride);
  const Words ab = __builtin_shufflevector(a, b, 0, 4, 1, 5);
  const Words cd = __builtin_shufflevector(c, d, 0, 4, 1, 5);
  const Words ab2 = __builtin_shufflevector(a, b, 2, 6, 3, 7);
  const Words cd2 = __builtin_shufflevector(c, d, 2, 6, 3, 7);
  return {{__builtin_shufflevector(ab, cd, 0, 1, 4, 5), __builtin_shufflevector(ab, cd, 2, 3, 6, 7),
           __builtin_shufflevector(ab2, cd2, 0, 1, 4, 5),
           __builtin_shufflevector(ab2, cd2, 2, 3, 6, 7)}};
}

}  // namespace onebit
