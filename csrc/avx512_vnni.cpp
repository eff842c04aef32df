// AVX-512 with VNNI: vpdpbusd multiplies 64 unsigned weights with 64 signed activations and adds
// each row's four products to that row's int32.
#if defined(__x86_64__)
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "ops.h"
#include "target.h"

ONEBIT_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")

namespace onebit {
namespace avx512_vnni {
namespace {

#define ONEBIT_PIECE 64
#include "lanes.inl"

constexpr int kTokens = 8;
constexpr int kFloatTokens = 4;

ONEBIT_INLINE Lanes fma(const Lanes& a, const Lanes& b, const Lanes& c) {
  return {{(Piece)_mm512_fmadd_ps((__m512)a.p[0], (__m512)b.p[0], (__m512)c.p[0])}};
}
ONEBIT_INLINE Lanes load_f16(const uint16_t* x) {
  return {{(Piece)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)x))}};
}
ONEBIT_INLINE void store_f16(uint16_t* y, const Lanes& a) {
  _mm256_storeu_si256((__m256i*)y, _mm512_cvtps_ph((__m512)a.p[0], _MM_FROUND_TO_NEAREST_INT));
}

ONEBIT_INLINE __m512i four(const int8_t* x) {  // four activations, in every row
  int32_t v;
  memcpy(&v, x, 4);
  return _mm512_set1_epi32(v);
}

// Codes of 2, 4 or 8 bits, decoded inside the loop.
template <int Bits>
struct Codes {
  static constexpr int kCodes = 8 / Bits;
  static constexpr size_t kColumns = 4 * kCodes;

  template <int T>
  static ONEBIT_INLINE void sums(const uint8_t* w, const int8_t* x, size_t x_stride,
                                 size_t vectors, IntLanes (&u)[T]) {
    const __m512i mask = _mm512_set1_epi8((char)((1 << Bits) - 1));
    __m512i sum[T];
    for (int t = 0; t < T; ++t) sum[t] = _mm512_setzero_si512();
    for (size_t b = 0; b < vectors; ++b, w += 64, x += kColumns) {
      const __m512i v = _mm512_load_si512(w);
      for (int m = 0; m < kCodes; ++m) {
        const __m512i code =
            Bits == 8 ? v : _mm512_and_si512(m ? _mm512_srli_epi16(v, Bits * m) : v, mask);
        for (int t = 0; t < T; ++t)
          sum[t] = _mm512_dpbusd_epi32(sum[t], code, four(x + t * x_stride + 4 * m));
      }
    }
    for (int t = 0; t < T; ++t) u[t].p[0] = (IntPiece)sum[t];
  }
};
using I8 = Codes<8>;

// One token: the codes stay where they are in the byte, each place has its own sums, and those are
// shifted once at the end. Largest place: 64 * 2 * 128 * K / 4 < 2^31 while K < 131072 * 4.
struct T2 : Codes<2> {
  template <int T>
  static ONEBIT_INLINE void sums(const uint8_t* w, const int8_t* x, size_t x_stride,
                                 size_t vectors, IntLanes (&u)[T]) {
    if constexpr (T > 1) {
      Codes<2>::sums<T>(w, x, x_stride, vectors, u);
    } else {
      const __m512i mask0 = _mm512_set1_epi8(0x03), mask1 = _mm512_set1_epi8(0x0c);
      const __m512i mask2 = _mm512_set1_epi8(0x30), mask3 = _mm512_set1_epi8((char)0xc0);
      __m512i sum0 = _mm512_setzero_si512(), sum1 = sum0, sum2 = sum0, sum3 = sum0;
      for (size_t b = 0; b < vectors; ++b, w += 64, x += 16) {
        const __m512i v = _mm512_load_si512(w);
        sum0 = _mm512_dpbusd_epi32(sum0, _mm512_and_si512(v, mask0), four(x));
        sum1 = _mm512_dpbusd_epi32(sum1, _mm512_and_si512(v, mask1), four(x + 4));
        sum2 = _mm512_dpbusd_epi32(sum2, _mm512_and_si512(v, mask2), four(x + 8));
        sum3 = _mm512_dpbusd_epi32(sum3, _mm512_and_si512(v, mask3), four(x + 12));
      }
      const __m512i low = _mm512_add_epi32(sum0, _mm512_srai_epi32(sum1, 2));
      const __m512i high =
          _mm512_add_epi32(_mm512_srai_epi32(sum2, 4), _mm512_srai_epi32(sum3, 6));
      u[0].p[0] = (IntPiece)_mm512_add_epi32(low, high);
    }
  }
};

// One token: two sums, so that the multiplications do not wait for one another.
struct I4 : Codes<4> {
  template <int T>
  static ONEBIT_INLINE void sums(const uint8_t* w, const int8_t* x, size_t x_stride,
                                 size_t vectors, IntLanes (&u)[T]) {
    if constexpr (T > 1) {
      Codes<4>::sums<T>(w, x, x_stride, vectors, u);
    } else {
      const __m512i mask = _mm512_set1_epi8(15);
      __m512i low = _mm512_setzero_si512(), high = low;
      for (size_t b = 0; b < vectors; ++b, w += 64, x += 8) {
        const __m512i v = _mm512_load_si512(w);
        low = _mm512_dpbusd_epi32(low, _mm512_and_si512(v, mask), four(x));
        high = _mm512_dpbusd_epi32(high, _mm512_and_si512(_mm512_srli_epi16(v, 4), mask),
                                   four(x + 4));
      }
      u[0].p[0] = (IntPiece)_mm512_add_epi32(low, high);
    }
  }
};

#include "float_ops.inl"
#include "attention.inl"
#include "hadamard.inl"
#include "products.inl"

}  // namespace
}  // namespace avx512_vnni

const Ops kAvx512Vnni = avx512_vnni::make_ops("avx512_vnni");

}  // namespace onebit

ONEBIT_TARGET_END
#endif
