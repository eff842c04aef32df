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

// Sixteen registers: two sums for each token, a vector's two halves, the activations and the mask.
constexpr int kTokens = 6;
constexpr int kFloatTokens = 2;

ONEBIT_INLINE Lanes fma(const Lanes& a, const Lanes& b, const Lanes& c) {
  Lanes r;
  for (int i = 0; i < 2; ++i)
    r.p[i] = (Piece)_mm256_fmadd_ps((__m256)a.p[i], (__m256)b.p[i], (__m256)c.p[i]);
  return r;
}
ONEBIT_INLINE Lanes load_f16(const uint16_t* x) {
  Lanes r;
  for (int i = 0; i < 2; ++i)
    r.p[i] = (Piece)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(x + 8 * i)));
  return r;
}
ONEBIT_INLINE void store_f16(uint16_t* y, const Lanes& a) {
  for (int i = 0; i < 2; ++i)
    _mm_storeu_si128((__m128i*)(y + 8 * i),
                     _mm256_cvtps_ph((__m256)a.p[i], _MM_FROUND_TO_NEAREST_INT));
}

ONEBIT_INLINE __m256i four(const int8_t* x) {  // four activations, in every row
  int32_t v;
  memcpy(&v, x, 4);
  return _mm256_set1_epi32(v);
}
ONEBIT_INLINE __m256i half_of(const uint8_t* w, int h) {
  return _mm256_load_si256((const __m256i*)(w + 32 * h));
}

template <class W>
constexpr int tiles_of(int) {
  return 1;
}

// Codes of 1, 2, 4 or 8 bits. A vector is read again for each place in its bytes: the load is free
// beside the multiplications, a register is not. The signs of b1 are 0 and 2: doubled at the end.
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
    const __m256i mask = _mm256_set1_epi8((char)((1 << Bits) - 1));
    __m256i sum[T][2];
    for (int t = 0; t < T; ++t) sum[t][0] = sum[t][1] = _mm256_setzero_si256();
    for (size_t b = 0; b < vectors; ++b, w += 64)
      for (int m = 0; m < kCodes; ++m, x += x_step) {
        __m256i code[2];
        for (int h = 0; h < 2; ++h) {
          const __m256i v = half_of(w, h);
          code[h] = Bits == 8 ? v : _mm256_and_si256(m ? _mm256_srli_epi16(v, Bits * m) : v, mask);
        }
        for (int t = 0; t < T; ++t) {
          const __m256i xt = four(x + 4 * t);
          for (int h = 0; h < 2; ++h)
            sum[t][h] = _mm256_dpbusd_avx_epi32(sum[t][h], code[h], xt);
        }
      }
    for (int t = 0; t < T; ++t)
      for (int h = 0; h < 2; ++h)
        u[t].p[h] += (IntPiece)(Bits == 1 ? _mm256_slli_epi32(sum[t][h], 1) : sum[t][h]);
  }
};
using B1 = Codes<1>;
using T2 = Codes<2>;
using I4 = Codes<4>;
using I8 = Codes<8>;

#include "avx2_trits.inl"
#include "float_ops.inl"
#include "attention.inl"
#include "hadamard.inl"
#include "products.inl"

}  // namespace
}  // namespace avx_vnni

const Ops kAvxVnni = avx_vnni::make_ops("avx_vnni");

}  // namespace onebit

ONEBIT_TARGET_END
#endif
