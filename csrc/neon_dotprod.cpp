// 64-bit Arm with dot products: SDOT multiplies 16 signed weights with 16 signed activations and
// adds each row's four products to that row's int32.
#if defined(__aarch64__)
#include <arm_neon.h>
#include <math.h>
#include <string.h>

#include <utility>

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

constexpr bool kSigned = true;

template <int Lane>
ONEBIT_INLINE int32x4_t dot(int32x4_t sum, uint8x16_t w, int8x16_t x) {
  asm volatile("sdot %0.4s, %1.16b, %2.4b[%3]" : "+w"(sum) : "w"(w), "w"(x), "i"(Lane));
  return sum;
}

#include "neon.inl"

// u - 128 is signed; 128 times the sum of s is added again.
ONEBIT_INLINE IntLanes dot4(const IntLanes& sum, const IntLanes& u, const IntLanes& s) {
  IntLanes r;
  for (int i = 0; i < 4; ++i) {
    const uint8x16_t code = veorq_u8((uint8x16_t)u.p[i], vdupq_n_u8(128));
    int32x4_t part = vdupq_n_s32(0);
    asm("sdot %0.4s, %1.16b, %2.16b" : "+w"(part) : "w"(vdupq_n_s8(1)), "w"(s.p[i]));
    part = vaddq_s32((int32x4_t)sum.p[i], vshlq_n_s32(part, 7));
    asm("sdot %0.4s, %1.16b, %2.16b" : "+w"(part) : "w"(code), "w"(s.p[i]));
    r.p[i] = (IntPiece)part;
  }
  return r;
}

template <int Bits>
struct Codes {
  static constexpr size_t kColumns = 4 * (8 / Bits);

  template <int R, int T>
  static ONEBIT_INLINE void sums(const uint8_t* w, size_t tile_bytes, const int8_t* x,
                                 size_t x_step, size_t vectors, IntLanes (&u)[R][T]) {
    dot_sums<Bits>(w, tile_bytes, x, x_step, vectors, u);
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
}  // namespace neon_dotprod

const Ops kNeonDotprod = neon_dotprod::make_ops("neon_dotprod");

}  // namespace onebit

ONEBIT_TARGET_END
#endif
