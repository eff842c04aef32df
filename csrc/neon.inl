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

template <class W>
constexpr int tiles_of(int) {
  return 1;
}

// Layout t1_6: 3 * rest pushes a trit out at the top. It is 1 from 86 on and 2 from 171 on, and what
// stays is 3 * rest modulo 256.
struct T1_6 {
  static constexpr bool kDirect = false;

  static ONEBIT_INLINE uint8x16_t trit(uint8x16_t rest) {
    const uint8x16_t one = vcgeq_u8(rest, vdupq_n_u8(86)), two = vcgeq_u8(rest, vdupq_n_u8(171));
    return vsubq_u8(vdupq_n_u8(0), vaddq_u8(one, two));  // minus -1 where it is so
  }

  static void decode(const uint8_t* w, size_t blocks, uint8_t* out) {
    for (; blocks; --blocks, w += 256, out += 320)
      for (int q = 0; q < 64; q += 16) {
        uint8x16_t first = vdupq_n_u8(0);
        for (int v = 0; v < 4; ++v) {
          uint8x16_t rest = vld1q_u8(w + 64 * v + q), codes = vdupq_n_u8(0);
          first = vorrq_u8(first, vshlq_u8(trit(rest), vdupq_n_s8((int8_t)(2 * v))));
          for (int n = 0; n < 4; ++n) {
            rest = vaddq_u8(vaddq_u8(rest, rest), rest);
            codes = vorrq_u8(codes, vshlq_u8(trit(rest), vdupq_n_s8((int8_t)(2 * n))));
          }
          vst1q_u8(out + 64 * v + q, codes);
        }
        vst1q_u8(out + 256 + q, first);
      }
  }
};
