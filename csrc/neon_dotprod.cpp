// 64-bit Arm with dot products: SDOT multiplies 16 signed weights with 16 signed activations and
// adds each row's four products to that row's int32.
#if defined(__aarch64__)
#include <arm_neon.h>
#include <math.h>
#include <string.h>

#include "ops.h"
#include "target.h"

#if defined(__clang__)
ONEBIT_TARGET_BEGIN("dotprod")
#else
ONEBIT_TARGET_BEGIN("arch=armv8.2-a+dotprod")
#endif

namespace onebit {
namespace neon_dotprod {
namespace {

#define ONEBIT_PIECE 16
#include "lanes.inl"
#include "neon.inl"

ONEBIT_INLINE int32x4_t dot(int32x4_t sum, int8x16_t w, int8x16_t x) {
  asm("sdot %0.4s, %1.16b, %2.16b" : "+w"(sum) : "w"(w), "w"(x));
  return sum;
}

// Codes of 1 to 4 bits, which are the same signed and unsigned, and of 8, which are made signed by
// taking 128 away: 128 times the sum of the activations is added again. The signs of b1 are 0 and 2:
// doubled at the end.
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
    int32x4_t sum[T][4], x_sum[T];
    for (int t = 0; t < T; ++t)
      for (int q = 0; q < 4; ++q) sum[t][q] = x_sum[t] = vdupq_n_s32(0);
    for (size_t b = 0; b < vectors; ++b, w += 64)
      for (int m = 0; m < kCodes; ++m, x += x_step) {
        int8x16_t xt[T];
        for (int t = 0; t < T; ++t) xt[t] = four(x + 4 * t);
        for (int q = 0; q < 4; ++q) {
          uint8x16_t code = code_at<Bits>(vld1q_u8(w + 16 * q), m);
          if (Bits == 8) code = veorq_u8(code, vdupq_n_u8(128));
          for (int t = 0; t < T; ++t) sum[t][q] = dot(sum[t][q], vreinterpretq_s8_u8(code), xt[t]);
        }
        if (Bits == 8)
          for (int t = 0; t < T; ++t) x_sum[t] = dot(x_sum[t], vdupq_n_s8(1), xt[t]);
      }
    for (int t = 0; t < T; ++t)
      for (int q = 0; q < 4; ++q) {
        if (Bits == 1) sum[t][q] = vshlq_n_s32(sum[t][q], 1);
        u[t].p[q] += (IntPiece)vaddq_s32(sum[t][q], vshlq_n_s32(x_sum[t], 7));
      }
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
}  // namespace neon_dotprod

const Ops kNeonDotprod = neon_dotprod::make_ops("neon_dotprod");

}  // namespace onebit

ONEBIT_TARGET_END
#endif
