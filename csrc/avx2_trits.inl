// Layout t1_6 on 256-bit registers, with AVX2 or AVX-VNNI.

// Five trits a byte: 3 * rest pushes one out at the top. It is 1 from 86 on and 2 from 171 on, and
// what stays is 3 * rest modulo 256.
struct T1_6 {
  static constexpr bool kDirect = false;

  static ONEBIT_INLINE __m256i trit(__m256i rest) {
    const __m256i one = _mm256_set1_epi8(1);
    return _mm256_add_epi8(
        _mm256_min_epu8(_mm256_subs_epu8(rest, _mm256_set1_epi8(85)), one),
        _mm256_min_epu8(_mm256_subs_epu8(rest, _mm256_set1_epi8((char)170)), one));
  }

  static void decode(const uint8_t* w, size_t blocks, uint8_t* out) {
    for (; blocks; --blocks, w += 256, out += 320)
      for (int h = 0; h < 2; ++h) {
        __m256i first = _mm256_setzero_si256();
        for (int v = 0; v < 4; ++v) {
          __m256i rest = half_of(w + 64 * v, h), codes = _mm256_setzero_si256();
          first = _mm256_or_si256(first, _mm256_slli_epi16(trit(rest), 2 * v));
          for (int n = 0; n < 4; ++n) {
            rest = _mm256_add_epi8(_mm256_add_epi8(rest, rest), rest);
            codes = _mm256_or_si256(codes, _mm256_slli_epi16(trit(rest), 2 * n));
          }
          _mm256_store_si256((__m256i*)(out + 64 * v + 32 * h), codes);
        }
        _mm256_store_si256((__m256i*)(out + 256 + 32 * h), first);
      }
  }
};
