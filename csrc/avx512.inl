// The AVX-512 code, with VNNI and, where ONEBIT_VBMI is defined, with VBMI. vpdpbusd multiplies 64
// unsigned weights with 64 signed activations and adds each row's four products to that row's int32.
// It takes four cycles or five, and two start in each: so a register tile needs ten sums or more.

#define ONEBIT_PIECE 64
#include "lanes.inl"

constexpr int kTokens = 12;
constexpr int kFloatTokens = 4;
constexpr size_t kAhead = 6144;
constexpr int kSums = 24;  // int32 sums that stay in registers, beside weights, masks and inputs

ONEBIT_INLINE Lanes fma(const Lanes& a, const Lanes& b, const Lanes& c) {
  return {{(Piece)_mm512_fmadd_ps((__m512)a.p[0], (__m512)b.p[0], (__m512)c.p[0])}};
}
ONEBIT_INLINE IntLanes dot4(const IntLanes& sum, const IntLanes& u, const IntLanes& s) {
  return {{(IntPiece)_mm512_dpbusd_epi32((__m512i)sum.p[0], (__m512i)u.p[0], (__m512i)s.p[0])}};
}
ONEBIT_INLINE Lanes load_i8(const int8_t* x) {
  const __m512i wide = _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)x));
  return {{(Piece)_mm512_cvtepi32_ps(wide)}};
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

// Weights come from memory in a stream, which the CPU's own prefetcher follows within a page of 4 KB.
// So ask for what lies beyond: some way on, or, where tiles are taken R at a time and again and again
// for other tokens, the same place of the next R tiles.
template <int R>
ONEBIT_INLINE __m512i weights(const uint8_t* w, size_t tile_bytes) {
  if (R == 1)
    _mm_prefetch((const char*)w + kAhead, _MM_HINT_T0);
  else
    _mm_prefetch((const char*)w + R * tile_bytes, _MM_HINT_T1);
  return _mm512_load_si512(w);
}

// The same as _mm512_dpbusd_epi32. Of that GCC keeps copies of sums in other registers, runs out of
// them, and in the widest tile spends a tenth of the time on the stack.
ONEBIT_INLINE void add_products(__m512i& sum, __m512i code, __m512i x) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(code), "v"(x));
}

#define ONEBIT_UNROLL _Pragma("GCC unroll 16")

// Codes of 1, 2 or 4 bits, decoded inside the loop.
template <int Bits>
struct Codes {
  static constexpr int kCodes = 8 / Bits;
  static constexpr size_t kColumns = 4 * kCodes;

  // The codes stay where they are in the byte, each place has its own sums, and those are shifted
  // once at the end. Largest sum: 240 * 128 * K / 2 < 2^31 while K < 131072 (4 bits, upper place).
  static constexpr bool in_place(int sums) { return sums * kCodes <= kSums; }

  template <int R, int T>
  static ONEBIT_INLINE void sums(const uint8_t* w, size_t tile_bytes, const int8_t* x,
                                 size_t x_step, size_t vectors, IntLanes (&u)[R][T]) {
    if constexpr (in_place(R * T))
      sums_in_place(w, tile_bytes, x, x_step, vectors, u);
    else
      sums_shifted(w, tile_bytes, x, x_step, vectors, u);
  }

  template <int R, int T>
  static ONEBIT_INLINE void sums_in_place(const uint8_t* w, size_t tile_bytes, const int8_t* x,
                                          size_t x_step, size_t vectors, IntLanes (&u)[R][T]) {
    __m512i mask[kCodes], sum[kCodes][R][T];
    ONEBIT_UNROLL for (int m = 0; m < kCodes; ++m) {
      mask[m] = _mm512_set1_epi8((char)(((1 << Bits) - 1) << (Bits * m)));
      ONEBIT_UNROLL for (int r = 0; r < R; ++r)
        ONEBIT_UNROLL for (int t = 0; t < T; ++t) sum[m][r][t] = _mm512_setzero_si512();
    }
    for (size_t b = 0; b < vectors; ++b, w += 64, x += kCodes * x_step) {
      __m512i v[R];
      ONEBIT_UNROLL for (int r = 0; r < R; ++r) v[r] = weights<R>(w + r * tile_bytes, tile_bytes);
      ONEBIT_UNROLL for (int m = 0; m < kCodes; ++m)
        ONEBIT_UNROLL for (int r = 0; r < R; ++r) {
          const __m512i code = _mm512_and_si512(v[r], mask[m]);
          ONEBIT_UNROLL for (int t = 0; t < T; ++t)
            add_products(sum[m][r][t], code, four(x + m * x_step + 4 * t));
        }
    }
    ONEBIT_UNROLL for (int r = 0; r < R; ++r)
      ONEBIT_UNROLL for (int t = 0; t < T; ++t) {
        __m512i all = sum[0][r][t];
        ONEBIT_UNROLL for (int m = 1; m < kCodes; ++m)
          all = _mm512_add_epi32(all, _mm512_srai_epi32(sum[m][r][t], Bits * m));
        if (Bits == 1) all = _mm512_slli_epi32(all, 1);  // b1: 0 and 2
        u[r][t].p[0] += (IntPiece)all;
      }
  }

  template <int R, int T>
  static ONEBIT_INLINE void sums_shifted(const uint8_t* w, size_t tile_bytes, const int8_t* x,
                                         size_t x_step, size_t vectors, IntLanes (&u)[R][T]) {
    const __m512i mask = _mm512_set1_epi8((char)(Bits == 1 ? 2 : (1 << Bits) - 1));
    __m512i sum[R][T];
    ONEBIT_UNROLL for (int r = 0; r < R; ++r)
      ONEBIT_UNROLL for (int t = 0; t < T; ++t) sum[r][t] = (__m512i)u[r][t].p[0];
    // The weights are loaded again for each place: a register more would put sums on the stack.
    for (size_t b = 0; b < vectors; ++b, w += 64, x += kCodes * x_step)
      ONEBIT_UNROLL for (int m = 0; m < kCodes; ++m) {
        __m512i code[R];
        asm("" : "+r"(w));
        ONEBIT_UNROLL for (int r = 0; r < R; ++r) {
          const __m512i v = m ? _mm512_load_si512(w + r * tile_bytes)
                              : weights<R>(w + r * tile_bytes, tile_bytes);
          code[r] = _mm512_and_si512(at(v, m), mask);
        }
        ONEBIT_UNROLL for (int t = 0; t < T; ++t) {
          const __m512i v = four(x + m * x_step + 4 * t);
          ONEBIT_UNROLL for (int r = 0; r < R; ++r) add_products(sum[r][t], code[r], v);
        }
      }
    ONEBIT_UNROLL for (int r = 0; r < R; ++r)
      ONEBIT_UNROLL for (int t = 0; t < T; ++t) u[r][t].p[0] = (IntPiece)sum[r][t];
  }

  // Code m in the lowest bits of the byte; for b1 one bit higher, so that it is 0 or 2.
  static ONEBIT_INLINE __m512i at(__m512i v, int m) {
    const int right = Bits == 1 ? m - 1 : Bits * m;
    return right < 0 ? _mm512_add_epi8(v, v) : right ? _mm512_srli_epi16(v, right) : v;
  }
};
using B1 = Codes<1>;
using T2 = Codes<2>;
using I4 = Codes<4>;

struct I8 {
  static constexpr size_t kColumns = 4;

  template <int R, int T>
  static ONEBIT_INLINE void sums(const uint8_t* w, size_t tile_bytes, const int8_t* x,
                                 size_t x_step, size_t vectors, IntLanes (&u)[R][T]) {
    constexpr int kChains = 4 * R * T <= kSums ? 4 : 2 * R * T <= kSums ? 2 : 1;
    __m512i sum[kChains][R][T];
    ONEBIT_UNROLL for (int c = 0; c < kChains; ++c)
      ONEBIT_UNROLL for (int r = 0; r < R; ++r)
        ONEBIT_UNROLL for (int t = 0; t < T; ++t) sum[c][r][t] = _mm512_setzero_si512();
    size_t b = 0;
    for (; b + kChains <= vectors; b += kChains, w += 64 * kChains, x += kChains * x_step)
      ONEBIT_UNROLL for (int c = 0; c < kChains; ++c) add(w, tile_bytes, x, x_step, c, sum[c]);
    for (; b < vectors; ++b, w += 64, x += x_step) add(w, tile_bytes, x, x_step, 0, sum[0]);
    ONEBIT_UNROLL for (int r = 0; r < R; ++r)
      ONEBIT_UNROLL for (int t = 0; t < T; ++t)
        ONEBIT_UNROLL for (int c = 0; c < kChains; ++c) u[r][t].p[0] += (IntPiece)sum[c][r][t];
  }

  template <int R, int T>
  static ONEBIT_INLINE void add(const uint8_t* w, size_t tile_bytes, const int8_t* x,
                                size_t x_step, int c, __m512i (&sum)[R][T]) {
    __m512i code[R];
    ONEBIT_UNROLL for (int r = 0; r < R; ++r) code[r] = weights<R>(w + r * tile_bytes + 64 * c, tile_bytes);
    ONEBIT_UNROLL for (int t = 0; t < T; ++t) {
      const __m512i v = four(x + c * x_step + 4 * t);
      ONEBIT_UNROLL for (int r = 0; r < R; ++r) add_products(sum[r][t], code[r], v);
    }
  }
};

#define ONEBIT_OWN_I6
struct I6 {
  static constexpr size_t kColumns = 16;

  // Groups are short, and the sums of the next one do not wait for those of this one: one chain.
  template <int R, int T>
  static ONEBIT_INLINE void sums(const uint8_t* w, size_t tile_bytes, const int8_t* x,
                                 size_t x_step, size_t units, IntLanes (&u)[R][T]) {
    const __m512i halves = _mm512_set1_epi8(0x0f), pairs = _mm512_set1_epi8(0x30);
    __m512i sum[R][T];
    ONEBIT_UNROLL for (int r = 0; r < R; ++r)
      ONEBIT_UNROLL for (int t = 0; t < T; ++t) sum[r][t] = (__m512i)u[r][t].p[0];
    for (; units; --units, w += 192, x += 4 * x_step) {
      __m512i v[R][3];
      ONEBIT_UNROLL for (int r = 0; r < R; ++r)
        ONEBIT_UNROLL for (int i = 0; i < 3; ++i)
          v[r][i] = weights<R>(w + r * tile_bytes + 64 * i, tile_bytes);
      ONEBIT_UNROLL for (int m = 0; m < 4; ++m) {
        __m512i code[R];
        ONEBIT_UNROLL for (int r = 0; r < R; ++r) {
          const __m512i low = m % 2 ? _mm512_srli_epi16(v[r][m / 2], 4) : v[r][m / 2];
          const __m512i high = m == 0   ? _mm512_slli_epi16(v[r][2], 4)
                               : m == 1 ? _mm512_slli_epi16(v[r][2], 2)
                               : m == 2 ? v[r][2]
                                        : _mm512_srli_epi16(v[r][2], 2);
          code[r] = _mm512_ternarylogic_epi32(low, halves, _mm512_and_si512(high, pairs),
                                              0xea);  // a & b | c
        }
        ONEBIT_UNROLL for (int t = 0; t < T; ++t) {
          const __m512i xt = four(x + m * x_step + 4 * t);
          ONEBIT_UNROLL for (int r = 0; r < R; ++r) add_products(sum[r][t], code[r], xt);
        }
      }
    }
    ONEBIT_UNROLL for (int r = 0; r < R; ++r)
      ONEBIT_UNROLL for (int t = 0; t < T; ++t) u[r][t].p[0] = (IntPiece)sum[r][t];
  }
};

// Two tiles where the weights are decoded once for many tokens; else one stream of weights.
template <class W>
constexpr int tiles_of(int T) {
  return T >= 8 ? 2 : 1;
}

// The first trit of each byte: 1 from 86 on and 2 from 171 on.
ONEBIT_INLINE __m512i first_trit(__m512i v) {
  const __mmask64 one = _mm512_cmpge_epu8_mask(v, _mm512_set1_epi8(86));
  const __mmask64 two = _mm512_cmpge_epu8_mask(v, _mm512_set1_epi8((char)171));
  return _mm512_mask_mov_epi8(_mm512_maskz_set1_epi8(one, 1), two, _mm512_set1_epi8(2));
}

#if defined(ONEBIT_VBMI)
// The last four trits of every byte, as a byte of t2.
struct Trits {
  uint8_t of[256];
};
constexpr Trits make_trits() {
  Trits trits{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t rest = byte * 3 & 255;
    for (int n = 0; n < 4; ++n, rest &= 255) {
      rest *= 3;
      trits.of[byte] = (uint8_t)(trits.of[byte] | rest >> 8 << (2 * n));
    }
  }
  return trits;
}
alignas(64) constexpr Trits kTrits = make_trits();

struct LastTrits {
  __m512i table[4];
  ONEBIT_INLINE LastTrits() {
    for (int i = 0; i < 4; ++i) table[i] = _mm512_load_si512(kTrits.of + 64 * i);
  }
  ONEBIT_INLINE __m512i operator()(__m512i v) const {
    const __m512i low = _mm512_permutex2var_epi8(table[0], v, table[1]);
    const __m512i high = _mm512_permutex2var_epi8(table[2], v, table[3]);
    return _mm512_mask_mov_epi8(low, _mm512_movepi8_mask(v), high);
  }
};
#else
struct LastTrits {
  ONEBIT_INLINE __m512i operator()(__m512i v) const {
    __m512i codes = _mm512_setzero_si512();
    ONEBIT_UNROLL for (int n = 0; n < 4; ++n) {
      v = _mm512_add_epi8(_mm512_add_epi8(v, v), v);  // pushes one trit out at the top
      codes = _mm512_or_si512(codes, _mm512_slli_epi16(first_trit(v), 2 * n));
    }
    return codes;
  }
};
#endif

struct T1_6 {
  static void decode(const uint8_t* w, size_t blocks, uint8_t* out) {
    const LastTrits last_trits;
    for (; blocks; --blocks, w += 256, out += 320) {
      __m512i first = _mm512_setzero_si512();
      ONEBIT_UNROLL for (int i = 0; i < 4; ++i) {
        const __m512i v = _mm512_load_si512(w + 64 * i);
        _mm512_store_si512(out + 64 * i, last_trits(v));
        first = _mm512_or_si512(first, _mm512_slli_epi16(first_trit(v), 2 * i));
      }
      _mm512_store_si512(out + 256, first);
    }
  }

  static constexpr bool kDirect = true;

  // Up to 3 tokens: each place of a byte has its own sums, as in Codes. More: codes are shifted, and
  // where there are few sums, two sets of them take turns, so that none is waited for.
  template <int R, int T>
  static ONEBIT_INLINE void sums(const uint8_t* w, size_t tile_bytes, const int8_t* x,
                                 size_t blocks, IntLanes (&u)[R][T]) {
    constexpr bool kInPlace = R * T <= 3;
    constexpr int kSets = kInPlace ? 5 : R * T <= 8 ? 2 : 1;
    const LastTrits last_trits;
    __m512i mask[4], sum[kSets][R][T];
    ONEBIT_UNROLL for (int m = 0; m < 4; ++m)
      mask[m] = _mm512_set1_epi8((char)(kInPlace ? 3 << (2 * m) : 3));
    ONEBIT_UNROLL for (int c = 0; c < kSets; ++c)
      ONEBIT_UNROLL for (int r = 0; r < R; ++r)
        ONEBIT_UNROLL for (int t = 0; t < T; ++t) sum[c][r][t] = _mm512_setzero_si512();
    for (; blocks; --blocks, w += 256, x += 80 * T)
      ONEBIT_UNROLL for (int i = 0; i < 4; ++i) {
        __m512i codes[R], code[R];
        ONEBIT_UNROLL for (int r = 0; r < R; ++r) {
          const __m512i v = weights<R>(w + r * tile_bytes + 64 * i, tile_bytes);
          codes[r] = last_trits(v);
          code[r] = first_trit(v);
        }
        add<R, T>(code, x + (64 + 4 * i) * T, sum[kInPlace ? 4 : 0]);
        ONEBIT_UNROLL for (int m = 0; m < 4; ++m) {
          ONEBIT_UNROLL for (int r = 0; r < R; ++r)
            code[r] = _mm512_and_si512(
                kInPlace || !m ? codes[r] : _mm512_srli_epi16(codes[r], 2 * m), mask[m]);
          add<R, T>(code, x + (16 * i + 4 * m) * T, sum[kInPlace ? m : (m + 1) % kSets]);
        }
      }
    ONEBIT_UNROLL for (int r = 0; r < R; ++r)
      ONEBIT_UNROLL for (int t = 0; t < T; ++t)
        ONEBIT_UNROLL for (int c = 0; c < kSets; ++c) {
          const int place = kInPlace && c < 4 ? c : 0;
          u[r][t].p[0] +=
              (IntPiece)(place ? _mm512_srai_epi32(sum[c][r][t], 2 * place) : sum[c][r][t]);
        }
  }

  template <int R, int T>
  static ONEBIT_INLINE void add(const __m512i (&code)[R], const int8_t* x, __m512i (&sum)[R][T]) {
    ONEBIT_UNROLL for (int t = 0; t < T; ++t) {
      const __m512i v = four(x + 4 * t);
      ONEBIT_UNROLL for (int r = 0; r < R; ++r) add_products(sum[r][t], code[r], v);
    }
  }
};
template <>
constexpr int tiles_of<T1_6>(int T) {
  return T >= 4 ? 2 : 1;
}

#include "float_ops.inl"
#include "quantize.inl"
#include "attention.inl"
#include "hadamard.inl"
#include "attention_codes.inl"
#include "trits.inl"
#include "products.inl"
