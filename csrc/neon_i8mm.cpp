// 64-bit Arm with int8 matrix products: USMMLA multiplies 2 rows by 8 columns of unsigned weights
// with 8 columns by 2 tokens, twice the work of a dot product. One token has no use for it and takes
// USDOT.
#if defined(__aarch64__)
#include <arm_neon.h>
#include <math.h>
#include <string.h>

#include <utility>

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

constexpr bool kSigned = false;

template <int Lane>
ONEBIT_INLINE int32x4_t dot(int32x4_t sum, uint8x16_t w, int8x16_t x) {
  asm volatile("usdot %0.4s, %1.16b, %2.4b[%3]" : "+w"(sum) : "w"(w), "w"(x), "i"(Lane));
  return sum;
}

#include "neon.inl"

ONEBIT_INLINE IntLanes dot4(const IntLanes& sum, const IntLanes& u, const IntLanes& s) {
  IntLanes r = sum;
  for (int i = 0; i < 4; ++i)
    asm("usdot %0.4s, %1.16b, %2.16b" : "+w"(r.p[i]) : "w"(u.p[i]), "w"(s.p[i]));
  return r;
}

// sum[2 i + j] += row i of w times row j of x, each of 8 bytes.
ONEBIT_INLINE int32x4_t dot_2x2(int32x4_t sum, uint8x16_t w, int8x16_t x) {
  asm volatile("usmmla %0.4s, %1.16b, %2.16b" : "+w"(sum) : "w"(w), "w"(x));
  return sum;
}
// The first or the last two lanes of a, each followed by the same lane of b.
ONEBIT_INLINE uint8x16_t zip_low(uint8x16_t a, uint8x16_t b) {
  return vreinterpretq_u8_u32(vzip1q_u32(vreinterpretq_u32_u8(a), vreinterpretq_u32_u8(b)));
}
ONEBIT_INLINE uint8x16_t zip_high(uint8x16_t a, uint8x16_t b) {
  return vreinterpretq_u8_u32(vzip2q_u32(vreinterpretq_u32_u8(a), vreinterpretq_u32_u8(b)));
}
// Eight columns of two tokens.
ONEBIT_INLINE int8x16_t load_pair(const int8_t* x, size_t x_step) {
  const int32x2_t a = vreinterpret_s32_s8(vld1_s8(x)), b = vreinterpret_s32_s8(vld1_s8(x + x_step));
  return vreinterpretq_s8_s32(vcombine_s32(vzip1_s32(a, b), vzip2_s32(a, b)));
}

template <int Bits>
struct Codes {
  static constexpr int kCodes = 8 / Bits;
  static constexpr size_t kColumns = 4 * kCodes;
  static constexpr int kVectors = Bits == 8 ? 2 : 1;  // that hold 8 columns

  // Even numbers of tokens, two codes of each row at a time. The registers of half a tile hold 24 sums
  // for 12 tokens; for up to 4 tokens those of a whole one do.
  template <int R, int T>
  static ONEBIT_INLINE void pair_sums(const uint8_t* w, size_t tile_bytes, const int8_t* x,
                                      size_t x_step, size_t vectors, IntLanes (&u)[R][T]) {
    constexpr int Q = T > 4 ? 2 : 4;
    for (int r = 0; r < R; ++r)
      for (int first = 0; first < 4; first += Q) {
        // Of tokens t and t + 1: the first two rows of a register, and its last two.
        int32x4_t low[T / 2][Q], high[T / 2][Q];
        for (int t = 0; t < T / 2; ++t)
          for (int q = 0; q < Q; ++q) low[t][q] = high[t][q] = vdupq_n_s32(0);
        for (size_t b = 0; b < vectors; b += kVectors)
          ONEBIT_UNROLL for (int m = 0; m < kCodes * kVectors; m += 2) {
            uint8x16_t w_low[Q], w_high[Q];
            ONEBIT_UNROLL for (int q = 0; q < Q; ++q) {
              const uint8_t* at = w + r * tile_bytes + 64 * b + 16 * (first + q);
              const uint8x16_t a = code_at<Bits>(vld1q_u8(at), m);
              const uint8x16_t c =
                  Bits == 8 ? vld1q_u8(at + 64) : code_at<Bits>(vld1q_u8(at), m + 1);
              w_low[q] = zip_low(a, c);
              w_high[q] = zip_high(a, c);
            }
            ONEBIT_UNROLL for (int t = 0; t < T / 2; ++t) {
              const int8x16_t xt = load_pair(x + (kCodes * b + m) * x_step + 8 * t, x_step);
              ONEBIT_UNROLL for (int q = 0; q < Q; ++q) {
                low[t][q] = dot_2x2(low[t][q], w_low[q], xt);
                high[t][q] = dot_2x2(high[t][q], w_high[q], xt);
              }
            }
          }
        for (int t = 0; t < T / 2; ++t)
          for (int q = 0; q < Q; ++q) {
            u[r][2 * t].p[first + q] += (IntPiece)vuzp1q_s32(low[t][q], high[t][q]);
            u[r][2 * t + 1].p[first + q] += (IntPiece)vuzp2q_s32(low[t][q], high[t][q]);
          }
      }
  }

  template <int R, int T>
  static ONEBIT_INLINE void sums(const uint8_t* w, size_t tile_bytes, const int8_t* x,
                                 size_t x_step, size_t vectors, IntLanes (&u)[R][T]) {
    size_t paired = 0;
    if constexpr (T % 2 == 0) {
      paired = vectors / kVectors * kVectors;
      pair_sums(w, tile_bytes, x, x_step, paired, u);
    }
    if (paired < vectors)
      dot_sums<Bits>(w + 64 * paired, tile_bytes, x + kCodes * paired * x_step, x_step,
                     vectors - paired, u);
  }
};
using B1 = Codes<1>;
using T2 = Codes<2>;
using I4 = Codes<4>;
using I8 = Codes<8>;

#include "float_ops.inl"
#include "quantize.inl"
#include "attention.inl"
#include "hadamard.inl"
#include "attention_codes.inl"
#include "trits.inl"
#include "products.inl"

}  // namespace
}  // namespace neon_i8mm

const Ops kNeonI8mm = neon_i8mm::make_ops("neon_i8mm");

}  // namespace onebit

ONEBIT_TARGET_END
#endif
