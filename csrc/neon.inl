// What the instruction sets of 64-bit Arm share. Needs lanes.inl with pieces of 16 bytes, and from
// the instruction set's file
//   dot<Lane>(sum, w, x)   sum += in each row, the four products of w with lane Lane of x
//   kSigned                whether it takes the weights as signed bytes
// A vector of 64 bytes is four registers, of 4 rows each.
//
// Dot products are written as assembly: Clang before 16 has their intrinsics only in a file that is
// compiled for the instruction set as a whole. It is volatile to stay in order: GCC would move loads up
// until the sums leave the registers.

// Of 32 registers, 24 are sums: a whole tile for up to 6 tokens, half of one for up to 12.
constexpr int kTokens = 12;
constexpr int kFloatTokens = 2;
constexpr int registers_of_tile(int T) { return T > 6 ? 2 : 4; }

template <class W>
constexpr int tiles_of(int) {
  return 1;
}

ONEBIT_INLINE Lanes fma(const Lanes& a, const Lanes& b, const Lanes& c) {
  Lanes r;
  for (int i = 0; i < 4; ++i)
    r.p[i] = (Piece)vfmaq_f32((float32x4_t)c.p[i], (float32x4_t)a.p[i], (float32x4_t)b.p[i]);
  return r;
}
ONEBIT_INLINE Lanes load_i8(const int8_t* x) {
  const int8x16_t bytes = vld1q_s8(x);
  const int16x8_t low = vmovl_s8(vget_low_s8(bytes)), high = vmovl_s8(vget_high_s8(bytes));
  return {{(Piece)vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))),
           (Piece)vcvtq_f32_s32(vmovl_s16(vget_high_s16(low))),
           (Piece)vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))),
           (Piece)vcvtq_f32_s32(vmovl_s16(vget_high_s16(high)))}};
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

// Four activations of each of T tokens, a token in a lane.
template <int T>
ONEBIT_INLINE void load_tokens(const int8_t* x, int8x16_t (&out)[(T + 3) / 4]) {
  ONEBIT_UNROLL for (int i = 0; i < T / 4; ++i) out[i] = vld1q_s8(x + 16 * i);
  if constexpr (T % 4 > 0) {
    const int8_t* rest = x + T / 4 * 16;
    int32_t last;  // the first of them, or the third
    memcpy(&last, rest + (T % 4 == 3 ? 8 : 0), 4);
    const int32x4_t one = vdupq_n_s32(last);
    const int8x16_t two = T % 4 > 1 ? vcombine_s8(vld1_s8(rest), vld1_s8(rest)) : int8x16_t{};
    out[T / 4] = T % 4 == 1   ? vreinterpretq_s8_s32(one)
                 : T % 4 == 2 ? two
                              : vextq_s8(two, vreinterpretq_s8_s32(one), 8);
  }
}

// The codes in the bits from Bits * m of each byte. The signs of b1 become 0 and 2.
template <int Bits>
ONEBIT_INLINE uint8x16_t code_at(uint8x16_t v, int m) {
  if (Bits == 8) return v;
  const int right = Bits == 1 ? m - 1 : Bits * m;
  const uint8x16_t shifted = right ? vshlq_u8(v, vdupq_n_s8((int8_t)-right)) : v;
  return vandq_u8(shifted, vdupq_n_u8(Bits == 1 ? 2 : (1 << Bits) - 1));
}

// sum[t] += w times token t, for each t.
template <int Q, size_t... t>
ONEBIT_INLINE void dot_tokens(int32x4_t (&sum)[sizeof...(t)][Q], int q, uint8x16_t w,
                              const int8x16_t* x, std::index_sequence<t...>) {
  ((sum[t][q] = dot<t % 4>(sum[t][q], w, x[t / 4])), ...);
}

// What `sums` asks for, by dot products. Codes of 8 bits become signed, where they must, by taking
// 128 away: 128 times the sum of the activations is added again.
template <int Bits, int R, int T>
ONEBIT_INLINE void dot_sums(const uint8_t* w, size_t tile_bytes, const int8_t* x, size_t x_step,
                            size_t vectors, IntLanes (&u)[R][T]) {
  constexpr int kCodes = 8 / Bits, Q = registers_of_tile(T);
  constexpr bool kShift = kSigned && Bits == 8;
  const auto tokens = std::make_index_sequence<T>();
  for (int r = 0; r < R; ++r)
    for (int first = 0; first < 4; first += Q) {
      int32x4_t sum[T][Q], x_sum[T][1];
      for (int t = 0; t < T; ++t)
        for (int q = 0; q < Q; ++q) sum[t][q] = x_sum[t][0] = vdupq_n_s32(0);
      for (size_t b = 0; b < vectors; ++b)
        ONEBIT_UNROLL for (int m = 0; m < kCodes; ++m) {
          int8x16_t xt[(T + 3) / 4];
          load_tokens<T>(x + (kCodes * b + m) * x_step, xt);
          ONEBIT_UNROLL for (int q = 0; q < Q; ++q) {
            const uint8x16_t v = vld1q_u8(w + r * tile_bytes + 64 * b + 16 * (first + q));
            const uint8x16_t code = code_at<Bits>(v, m);
            dot_tokens(sum, q, kShift ? veorq_u8(code, vdupq_n_u8(128)) : code, xt, tokens);
          }
          if (kShift) dot_tokens(x_sum, 0, vdupq_n_u8(1), xt, tokens);
        }
      for (int t = 0; t < T; ++t)
        for (int q = 0; q < Q; ++q)
          u[r][t].p[first + q] += (IntPiece)vaddq_s32(sum[t][q], vshlq_n_s32(x_sum[t][0], 7));
    }
}

// Five trits a byte: 3 * rest pushes one out at the top, and what stays is 3 * rest modulo 256.
struct T1_6 {
  static constexpr bool kDirect = false;

  // The trit is in the top two bits of (rest + rest / 2) / 2; what is below is of no use.
  static ONEBIT_INLINE uint8x16_t trit(uint8x16_t rest) {
    return vhaddq_u8(rest, vshrq_n_u8(rest, 1));
  }
  // The top two bits of each, that of a in the lowest bits.
  static ONEBIT_INLINE uint8x16_t join(uint8x16_t a, uint8x16_t b, uint8x16_t c, uint8x16_t d) {
    return vsriq_n_u8(vsriq_n_u8(vsriq_n_u8(d, c, 2), b, 4), a, 6);
  }

  static void decode(const uint8_t* w, size_t blocks, uint8_t* out) {
    for (; blocks; --blocks, w += 256, out += 320)
      for (int q = 0; q < 4; ++q) {
        uint8x16_t first[4];
        for (int v = 0; v < 4; ++v) {
          uint8x16_t rest = vld1q_u8(w + 64 * v + 16 * q), next[4];
          first[v] = trit(rest);
          for (int n = 0; n < 4; ++n) {
            rest = vaddq_u8(vaddq_u8(rest, rest), rest);
            next[n] = trit(rest);
          }
          vst1q_u8(out + 64 * v + 16 * q, join(next[0], next[1], next[2], next[3]));
        }
        vst1q_u8(out + 256 + 16 * q, join(first[0], first[1], first[2], first[3]));
      }
  }
};
