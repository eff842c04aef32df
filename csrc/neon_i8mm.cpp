// 64-bit Arm with int8 matrix products: USMMLA multiplies 2 rows by 8 columns of unsigned weights
// with 8 columns by 2 tokens, twice the work of a dot product. One token has no use for it and takes
// USDOT.
#if defined(__aarch64__)
#include <arm_neon.h>
#include <math.h>
#include <string.h>

#include "ops.h"
#include "target.h"

#if defined(__clang__)
ONEBIT_TARGET_BEGIN("dotprod,i8mm")
#else
ONEBIT_TARGET_BEGIN("arch=armv8.2-a+dotprod+i8mm")
#endif

namespace onebit {
namespace neon_i8mm {
namespace {

#define ONEBIT_PIECE 16
#include "lanes.inl"
#include "neon.inl"

ONEBIT_INLINE int32x4_t dot(int32x4_t sum, uint8x16_t w, int8x16_t x) {
  asm("usdot %0.4s, %1.16b, %2.16b" : "+w"(sum) : "w"(w), "w"(x));
  return sum;
}
// sum[2 i + j] += row i of w times row j of x, each of 8 bytes.
ONEBIT_INLINE int32x4_t dot_2x2(int32x4_t sum, uint8x16_t w, int8x16_t x) {
  asm("usmmla %0.4s, %1.16b, %2.16b" : "+w"(sum) : "w"(w), "w"(x));
  return sum;
}
// The first or last two lanes of a, each followed by the same lane of b.
ONEBIT_INLINE uint8x16_t zip_low(uint8x16_t a, uint8x16_t b) {
  return vreinterpretq_u8_u32(vzip1q_u32(vreinterpretq_u32_u8(a), vreinterpretq_u32_u8(b)));
}
ONEBIT_INLINE uint8x16_t zip_high(uint8x16_t a, uint8x16_t b) {
  return vreinterpretq_u8_u32(vzip2q_u32(vreinterpretq_u32_u8(a), vreinterpretq_u32_u8(b)));
}

template <int Bits>
struct Codes {
  static constexpr int kCodes = 8 / Bits;
  static constexpr size_t kColumns = 4 * kCodes;

  template <int R, int T>
  static ONEBIT_INLINE void sums(const uint8_t* w, size_t tile_bytes, const int8_t* x,
                                 size_t x_step, size_t vectors, IntLanes (&u)[R][T]) {
    for (int r = 0; r < R; ++r) sums_of_tile(w + r * tile_bytes, x, x_step, vectors, u[r]);
  }

  template <int T>
  static ONEBIT_INLINE void sums_of_tile(const uint8_t* w, const int8_t* x, size_t x_step,
                                         size_t vectors, IntLanes (&u)[T]) {
    int32x4_t sum[T][4];
    for (int t = 0; t < T; ++t)
      for (int q = 0; q < 4; ++q) sum[t][q] = vdupq_n_s32(0);
    size_t b = 0;
    if constexpr (T % 2 == 0) {
      // sum[t][q] is rows 4 q and 4 q + 1 of tokens t and t + 1, sum[t + 1][q] the other two rows.
      constexpr int kVectors = Bits == 8 ? 2 : 1;  // that hold 8 columns
      for (; b + kVectors <= vectors; b += kVectors, w += 64 * kVectors)
        for (int m = 0; m < kCodes * kVectors; m += 2, x += 2 * x_step) {
          int8x16_t xt[T / 2];  // four columns of tokens t and t + 1, and the next four
          for (int t = 0; t < T; t += 2) {
            const int32x2x2_t tokens = vzip_s32(vreinterpret_s32_s8(vld1_s8(x + 4 * t)),
                                                vreinterpret_s32_s8(vld1_s8(x + x_step + 4 * t)));
            xt[t / 2] = vreinterpretq_s8_s32(vcombine_s32(tokens.val[0], tokens.val[1]));
          }
          for (int q = 0; q < 4; ++q) {
            const uint8x16_t v = vld1q_u8(w + 16 * q);
            const uint8x16_t a = code_at<Bits>(v, m);
            const uint8x16_t c = Bits == 8 ? vld1q_u8(w + 64 + 16 * q) : code_at<Bits>(v, m + 1);
            const uint8x16_t low = zip_low(a, c), high = zip_high(a, c);
            for (int t = 0; t < T; t += 2) {
              sum[t][q] = dot_2x2(sum[t][q], low, xt[t / 2]);
              sum[t + 1][q] = dot_2x2(sum[t + 1][q], high, xt[t / 2]);
            }
          }
        }
      for (int t = 0; t < T; t += 2)
        for (int q = 0; q < 4; ++q) {
          const int32x4_t low = sum[t][q], high = sum[t + 1][q];
          sum[t][q] = vuzp1q_s32(low, high);
          sum[t + 1][q] = vuzp2q_s32(low, high);
        }
    }
    for (; b < vectors; ++b, w += 64)
      for (int m = 0; m < kCodes; ++m, x += x_step) {
        int8x16_t xt[T];
        for (int t = 0; t < T; ++t) xt[t] = four(x + 4 * t);
        for (int q = 0; q < 4; ++q) {
          const uint8x16_t code = code_at<Bits>(vld1q_u8(w + 16 * q), m);
          for (int t = 0; t < T; ++t) sum[t][q] = dot(sum[t][q], code, xt[t]);
        }
      }
    for (int t = 0; t < T; ++t)
      for (int q = 0; q < 4; ++q)  // the signs of b1 are 0 and 2
        u[t].p[q] += (IntPiece)(Bits == 1 ? vshlq_n_s32(sum[t][q], 1) : sum[t][q]);
  }
};
using B1 = Codes<1>;
using T2 = Codes<2>;
using I4 = Codes<4>;
using I8 = Codes<8>;

#include "float_ops.inl"
#include "attention.inl"
#include "hadamard.inl"
#include "products.inl"

}  // namespace
}  // namespace neon_i8mm

const Ops kNeonI8mm = neon_i8mm::make_ops("neon_i8mm");

}  // namespace onebit

ONEBIT_TARGET_END
#endif
