// What the instruction sets of 64-bit Arm share. Needs lanes.inl with pieces of 16 bytes. A vector
// of 64 bytes is four registers, of 4 rows each.
//
// Dot products are written as assembly: Clang before 16 has their intrinsics only in a file that is
// compiled for the instruction set as a whole.

constexpr int kTokens = 4;
constexpr int kFloatTokens = 2;

ONEBIT_INLINE Lanes fma(const Lanes& a, const Lanes& b, const Lanes& c) {
  Lanes r;
  for (int i = 0; i < 4; ++i)
    r.p[i] = (Piece)vfmaq_f32((float32x4_t)c.p[i], (float32x4_t)a.p[i], (float32x4_t)b.p[i]);
  return r;
}
ONEBIT_INLINE Lanes load_f16(const uint16_t* x) {
  Lanes r;
  for (int i = 0; i < 4; ++i)
    r.p[i] = (Piece)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(x + 4 * i)));
  return r;
}
ONEBIT_INLINE void store_f16(uint16_t* y, const Lanes& a) {
  for (int i = 0; i < 4; ++i)
    vst1_u16(y + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32((float32x4_t)a.p[i])));
}

ONEBIT_INLINE int8x16_t four(const int8_t* x) {  // four activations, in every row
  int32_t v;
  memcpy(&v, x, 4);
  return vreinterpretq_s8_s32(vdupq_n_s32(v));
}

// The codes in the bits from Bits * m of each byte.
template <int Bits>
ONEBIT_INLINE uint8x16_t code_at(uint8x16_t v, int m) {
  if (Bits == 8) return v;
  const uint8x16_t shifted = vshlq_u8(v, vdupq_n_s8((int8_t)(-Bits * m)));
  return Bits * (m + 1) == 8 ? shifted : vandq_u8(shifted, vdupq_n_u8((1 << Bits) - 1));
}
