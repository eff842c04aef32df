// AVX-VNNI: vpdpbusd on 256-bit registers, for CPUs that have it without AVX-512. A vector of 64
// bytes is two registers, of 8 rows each.
#if defined(__x86_64__)
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "ops.h"
#include "target.h"

ONEBIT_TARGET_BEGIN("avx2,avxvnni,fma,f16c")

namespace onebit {
namespace avx_vnni {
namespace {

#define ONEBIT_PIECE 32
#include "lanes.inl"
#include "avx2_lanes.inl"

// Of 16 registers, 12 are sums: a whole tile for up to 6 tokens, half of one for up to 12.
constexpr int kTokens = 12;
constexpr int kFloatTokens = 2;

ONEBIT_INLINE IntLanes dot4(const IntLanes& sum, const IntLanes& u, const IntLanes& s) {
  IntLanes r;
  for (int i = 0; i < 2; ++i)
    r.p[i] = (IntPiece)_mm256_dpbusd_avx_epi32((__m256i)sum.p[i], (__m256i)u.p[i], (__m256i)s.p[i]);
  return r;
}

template <int Bits>
struct Codes {
  static constexpr int kCodes = 8 / Bits;
  static constexpr size_t kColumns = 4 * kCodes;

  // The codes in the bits from Bits * m of each byte. The signs of b1 become 0 and 2.
  static ONEBIT_INLINE __m256i code_at(__m256i v, int m) {
    if (Bits == 8) return v;
    const int right = Bits == 1 ? m - 1 : Bits * m;
    const __m256i mask = _mm256_set1_epi8(Bits == 1 ? 2 : (1 << Bits) - 1);
    const __m256i shifted = right < 0    ? _mm256_add_epi8(v, v)
                            : right == 0 ? v
                                         : _mm256_srli_epi16(v, right);
    return _mm256_and_si256(shifted, mask);
  }

  // One token is bound by memory, and few are by the decoding: the codes stay where they are in the
  // byte, each place has its own sums, and those are shifted once at the end. Largest sum:
  // 240 * 128 * K / 2 < 2^31 while K < 131072 (4 bits, upper place).
  static constexpr bool in_place(int T) { return Bits > 1 && 2 * T * kCodes <= 8; }

  // H halves of a tile, of 8 rows each, from half `first` on. A vector is read again for each place
  // in its bytes: the load is free beside the multiplications, a register is not.
  template <int H, int T>
  static ONEBIT_INLINE void halves(const uint8_t* w, const int8_t* x, size_t x_step,
                                   size_t vectors, int first, IntLanes (&u)[T]) {
    constexpr int P = in_place(T) ? kCodes : 1;
    __m256i sum[P][H][T];
    ONEBIT_UNROLL for (int p = 0; p < P; ++p)
      for (int h = 0; h < H; ++h)
        ONEBIT_UNROLL for (int t = 0; t < T; ++t) sum[p][h][t] = _mm256_setzero_si256();
    for (size_t b = 0; b < vectors; ++b, w += 64)
      ONEBIT_UNROLL for (int m = 0; m < kCodes; ++m, x += x_step) {
        __m256i code[H];
        for (int h = 0; h < H; ++h) {
          const __m256i v = half_of(w, first + h);
          const __m256i place = _mm256_set1_epi8((char)(((1 << Bits) - 1) << (Bits * m)));
          code[h] = P > 1 ? _mm256_and_si256(v, place) : code_at(v, m);
        }
        ONEBIT_UNROLL for (int t = 0; t < T; ++t) {
          const __m256i xt = four(x + 4 * t);
          for (int h = 0; h < H; ++h)
            sum[m % P][h][t] = _mm256_dpbusd_avx_epi32(sum[m % P][h][t], code[h], xt);
        }
      }
    for (int h = 0; h < H; ++h)
      ONEBIT_UNROLL for (int t = 0; t < T; ++t)
        ONEBIT_UNROLL for (int p = 0; p < P; ++p)
          u[t].p[first + h] += (IntPiece)_mm256_srai_epi32(sum[p][h][t], Bits * p);
  }

  template <int R, int T>
  static ONEBIT_INLINE void sums(const uint8_t* w, size_t tile_bytes, const int8_t* x,
                                 size_t x_step, size_t vectors, IntLanes (&u)[R][T]) {
    for (int r = 0; r < R; ++r, w += tile_bytes) {
      if constexpr (T <= 6) {
        halves<2>(w, x, x_step, vectors, 0, u[r]);
      } else {
        halves<1>(w, x, x_step, vectors, 0, u[r]);
        halves<1>(w, x, x_step, vectors, 1, u[r]);
      }
    }
  }
};
using B1 = Codes<1>;
using T2 = Codes<2>;
using I4 = Codes<4>;
using I8 = Codes<8>;

#include "avx2_trits.inl"
#include "float_ops.inl"
#include "quantize.inl"
#include "attention.inl"
#include "hadamard.inl"
#include "attention_codes.inl"
#include "trits.inl"
#include "products.inl"

}  // namespace
}  // namespace avx_vnni

const Ops kAvxVnni = avx_vnni::make_ops("avx_vnni");

}  // namespace onebit

ONEBIT_TARGET_END
#endif
