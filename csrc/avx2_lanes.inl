// Lanes in two registers of 256 bits, for the tables of AVX2 and of AVX-VNNI: loading, storing and
// the fused product. Included after lanes.inl.

ONEBIT_INLINE Lanes fma(const Lanes& a, const Lanes& b, const Lanes& c) {
  Lanes r;
  for (int i = 0; i < 2; ++i)
    r.p[i] = (Piece)_mm256_fmadd_ps((__m256)a.p[i], (__m256)b.p[i], (__m256)c.p[i]);
  return r;
}
ONEBIT_INLINE Lanes load_i8(const int8_t* x) {
  Lanes r;
  for (int i = 0; i < 2; ++i)
    r.p[i] = (Piece)_mm256_cvtepi32_ps(
        _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)(x + 8 * i))));
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
