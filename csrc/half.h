// IEEE half precision in software: exact both ways, round to nearest even, as F16C does in
// hardware.
#pragma once
#include <stdint.h>
#include <string.h>

namespace onebit {

inline float float_of_bits(uint32_t bits) {
  float x;
  memcpy(&x, &bits, 4);
  return x;
}

inline float float_of_half(uint16_t h) {
  const uint32_t sign = (uint32_t)(h & 0x8000) << 16;
  const uint32_t exponent = (h >> 10) & 31, fraction = h & 1023;
  if (exponent == 31)  // infinity, or a NaN, made quiet
    return float_of_bits(sign | 0x7f800000 | fraction << 13 | (fraction ? 0x400000 : 0));
  if (exponent) return float_of_bits(sign | (exponent + 112) << 23 | fraction << 13);
  const float small = (float)fraction * 0x1p-24f;  // exact, zero included
  return sign ? -small : small;
}

inline uint16_t half_of_float(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  const uint32_t sign = bits >> 16 & 0x8000, size = bits & 0x7fffffff;
  if (size > 0x7f800000) return (uint16_t)(sign | 0x7e00 | (size >> 13 & 0x3ff));
  if (size >= 0x477ff000) return (uint16_t)(sign | 0x7c00);  // 65520 and above round to infinity
  if (size < 0x38800000) {  // below 2^-14: adding 0.5 rounds to a multiple of 2^-24
    const float rounded = float_of_bits(size) + 0.5f;
    uint32_t low;
    memcpy(&low, &rounded, 4);
    return (uint16_t)(sign | (low - 0x3f000000));
  }
  const uint32_t even = size >> 13 & 1;  // ties go to the even neighbour
  return (uint16_t)(sign | ((size - 0x38000000 + 0xfff + even) >> 13));
}

}  // namespace onebit
