// AVX2, FMA and F16C. A vector of 64 bytes is two registers, of 8 rows each.
#if defined(__x86_64__)
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "ops.h"
#include "target.h"

ONEBIT_TARGET_BEGIN("avx2,fma,f16c")

namespace onebit {
namespace avx2 {
namespace {

#define ONEBIT_PIECE 32
#include "lanes.inl"
#include "avx2_lanes.inl"

constexpr int kTokens = 4;
constexpr int kFloatTokens = 2;

// Even and odd bytes are widened first: two products of 255 * 128 pass int16.
ONEBIT_INLINE IntLanes dot4(const IntLanes& sum, const IntLanes& u, const IntLanes& s) {
  IntLanes r;
  for (int i = 0; i < 2; ++i) {
    const __m256i a = (__m256i)u.p[i], b = (__m256i)s.p[i];
    const __m256i even = _mm256_madd_epi16(_mm256_and_si256(a, _mm256_set1_epi16(0xff)),
                                           _mm256_srai_epi16(_mm256_slli_epi16(b, 8), 8));
    const __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(a, 8), _mm256_srai_epi16(b, 8));
    r.p[i] = sum.p[i] + (IntPiece)_mm256_add_epi32(even, odd);
  }
  return r;
}

// Codes of 1, 2 or 4 bits. vpmaddubsw adds two products in int16, and so many of them fit there
// together that those of several vectors are added before they are widened: with codes up to 1, 3
// (t2 has 2 at most) and 15, 16 vectors of 8 and 4 products and 4 of 2. The largest sum is
// 16 * 4 * 2 * 2 * 128 = 2^15, of negative products only.
template <int Bits>
struct Codes {
  static constexpr int kCodes = 8 / Bits;
  static constexpr size_t kColumns = 4 * kCodes;
  static constexpr size_t kTogether = Bits == 4 ? 4 : 16;

  // H halves of a tile, of 8 rows each, from half h on.
  template <int H, int T>
  static ONEBIT_INLINE void halves(const uint8_t* w, const int8_t* x, size_t x_step,
                                   size_t vectors, int h, IntLanes (&u)[T]) {
    const __m256i mask = _mm256_set1_epi8((1 << Bits) - 1), ones = _mm256_set1_epi16(1);
    __m256i sum[H][T];
    for (int i = 0; i < H; ++i)
      for (int t = 0; t < T; ++t) sum[i][t] = _mm256_setzero_si256();
    while (vectors) {
      const size_t together = vectors < kTogether ? vectors : kTogether;
      vectors -= together;
      __m256i pairs[H][T];
      for (int i = 0; i < H; ++i)
        for (int t = 0; t < T; ++t) pairs[i][t] = _mm256_setzero_si256();
      for (size_t b = 0; b < together; ++b, w += 64) {
        __m256i v[H];
        for (int i = 0; i < H; ++i) v[i] = half_of(w, h + i);
        for (int m = 0; m < kCodes; ++m, x += x_step) {
          __m256i code[H];
          for (int i = 0; i < H; ++i)
            code[i] = _mm256_and_si256(_mm256_srli_epi16(v[i], Bits * m), mask);
          for (int t = 0; t < T; ++t)
            for (int i = 0; i < H; ++i)
              pairs[i][t] =
                  _mm256_add_epi16(pairs[i][t], _mm256_maddubs_epi16(code[i], four(x + 4 * t)));
        }
      }
      for (int i = 0; i < H; ++i)
        for (int t = 0; t < T; ++t)
          sum[i][t] = _mm256_add_epi32(sum[i][t], _mm256_madd_epi16(pairs[i][t], ones));
    }
    for (int i = 0; i < H; ++i)
      for (int t = 0; t < T; ++t) {
        if (Bits == 1) sum[i][t] = _mm256_slli_epi32(sum[i][t], 1);  // b1: 0 and 2
        u[t].p[h + i] += (IntPiece)sum[i][t];
      }
  }

  template <int R, int T>
  static ONEBIT_INLINE void sums(const uint8_t* w, size_t tile_bytes, const int8_t* x,
                                 size_t x_step, size_t vectors, IntLanes (&u)[R][T]) {
    for (int r = 0; r < R; ++r, w += tile_bytes) {
      if constexpr (T <= 2) {
        halves<2, T>(w, x, x_step, vectors, 0, u[r]);
      } else {  // what 16 registers hold
        halves<1, T>(w, x, x_step, vectors, 0, u[r]);
        halves<1, T>(w, x, x_step, vectors, 1, u[r]);
      }
    }
  }
};
using B1 = Codes<1>;
using T2 = Codes<2>;
using I4 = Codes<4>;

// Codes of 8 bits: two products of 255 * 128 pass int16, so even and odd bytes are widened first.
struct I8 {
  static constexpr size_t kColumns = 4;

  template <int R, int T>
  static ONEBIT_INLINE void sums(const uint8_t* w, size_t tile_bytes, const int8_t* x,
                                 size_t x_step, size_t vectors, IntLanes (&u)[R][T]) {
    const __m256i low_byte = _mm256_set1_epi16(0xff);
    for (int r = 0; r < R; ++r, w += tile_bytes) {
      __m256i sum[T][2];
      for (int t = 0; t < T; ++t) sum[t][0] = sum[t][1] = _mm256_setzero_si256();
      for (size_t b = 0; b < vectors; ++b)
        for (int t = 0; t < T; ++t) {
          const __m256i v = four(x + b * x_step + 4 * t);
          const __m256i x_even = _mm256_srai_epi16(_mm256_slli_epi16(v, 8), 8);
          const __m256i x_odd = _mm256_srai_epi16(v, 8);
          for (int h = 0; h < 2; ++h) {
            const __m256i even = _mm256_and_si256(half_of(w + 64 * b, h), low_byte);
            const __m256i odd = _mm256_srli_epi16(half_of(w + 64 * b, h), 8);
            const __m256i products = _mm256_add_epi32(_mm256_madd_epi16(even, x_even),
                                                      _mm256_madd_epi16(odd, x_odd));
            sum[t][h] = _mm256_add_epi32(sum[t][h], products);
          }
        }
      for (int t = 0; t < T; ++t)
        for (int h = 0; h < 2; ++h) u[r][t].p[h] += (IntPiece)sum[t][h];
    }
  }
};

#include "avx2_trits.inl"
#include "float_ops.inl"
#include "quantize.inl"
#include "attention.inl"
#include "hadamard.inl"
#include "attention_codes.inl"
#include "trits.inl"
#include "products.inl"

}  // namespace
}  // namespace avx2

const Ops kAvx2 = avx2::make_ops("avx2");

}  // namespace onebit

ONEBIT_TARGET_END
#endif
