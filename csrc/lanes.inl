// Sixteen floats or integers side by side, whatever the registers of the instruction set hold.
// Included inside a target region after ONEBIT_PIECE, the bytes of a register (16, 32 or 64). The
// file of the instruction set adds what the language has no operator for: fma, dot4, load_i8,
// load_f16, store_f16. dot4(sum, u, s) adds to each lane its four products of a byte of u, unsigned,
// with one of s, signed, exactly.
// Each lane goes through the same IEEE operations everywhere, so results are equal bit for bit.

constexpr int kPieces = 64 / ONEBIT_PIECE;
constexpr int kPieceLanes = ONEBIT_PIECE / 4;
typedef float Piece __attribute__((vector_size(ONEBIT_PIECE)));
typedef int32_t IntPiece __attribute__((vector_size(ONEBIT_PIECE)));

struct Lanes {
  Piece p[kPieces];
};
struct IntLanes {
  IntPiece p[kPieces];
};

#define ONEBIT_EACH for (int i = 0; i < kPieces; ++i)

ONEBIT_INLINE Lanes load(const float* x) {
  Lanes r;
  ONEBIT_EACH memcpy(&r.p[i], x + i * kPieceLanes, ONEBIT_PIECE);
  return r;
}
ONEBIT_INLINE IntLanes load(const int32_t* x) {
  IntLanes r;
  ONEBIT_EACH memcpy(&r.p[i], x + i * kPieceLanes, ONEBIT_PIECE);
  return r;
}
ONEBIT_INLINE void store(float* y, const Lanes& a) {
  ONEBIT_EACH memcpy(y + i * kPieceLanes, &a.p[i], ONEBIT_PIECE);
}
ONEBIT_INLINE void store(int32_t* y, const IntLanes& a) {
  ONEBIT_EACH memcpy(y + i * kPieceLanes, &a.p[i], ONEBIT_PIECE);
}
ONEBIT_INLINE Lanes splat(float x) {
  Lanes r;
  ONEBIT_EACH r.p[i] = x - Piece{};
  return r;
}
ONEBIT_INLINE IntLanes splat(int32_t x) {
  IntLanes r;
  ONEBIT_EACH r.p[i] = x - IntPiece{};
  return r;
}
ONEBIT_INLINE Lanes operator+(const Lanes& a, const Lanes& b) {
  Lanes r;
  ONEBIT_EACH r.p[i] = a.p[i] + b.p[i];
  return r;
}
ONEBIT_INLINE Lanes operator-(const Lanes& a, const Lanes& b) {
  Lanes r;
  ONEBIT_EACH r.p[i] = a.p[i] - b.p[i];
  return r;
}
ONEBIT_INLINE Lanes operator*(const Lanes& a, const Lanes& b) {
  Lanes r;
  ONEBIT_EACH r.p[i] = a.p[i] * b.p[i];
  return r;
}
ONEBIT_INLINE Lanes operator/(const Lanes& a, const Lanes& b) {
  Lanes r;
  ONEBIT_EACH r.p[i] = a.p[i] / b.p[i];
  return r;
}
ONEBIT_INLINE IntLanes operator+(const IntLanes& a, const IntLanes& b) {
  IntLanes r;
  ONEBIT_EACH r.p[i] = a.p[i] + b.p[i];
  return r;
}
ONEBIT_INLINE IntLanes operator-(const IntLanes& a, const IntLanes& b) {
  IntLanes r;
  ONEBIT_EACH r.p[i] = a.p[i] - b.p[i];
  return r;
}
ONEBIT_INLINE IntLanes operator>>(const IntLanes& a, int bits) {
  IntLanes r;
  ONEBIT_EACH r.p[i] = a.p[i] >> bits;
  return r;
}
ONEBIT_INLINE IntLanes operator<<(const IntLanes& a, int bits) {
  IntLanes r;
  ONEBIT_EACH r.p[i] = a.p[i] << bits;
  return r;
}
ONEBIT_INLINE IntLanes operator&(const IntLanes& a, const IntLanes& b) {
  IntLanes r;
  ONEBIT_EACH r.p[i] = a.p[i] & b.p[i];
  return r;
}
ONEBIT_INLINE IntLanes operator|(const IntLanes& a, const IntLanes& b) {
  IntLanes r;
  ONEBIT_EACH r.p[i] = a.p[i] | b.p[i];
  return r;
}

// a where a > b (or a < b), else b: so a NaN in a gives b, as the CPU's own instructions do.
ONEBIT_INLINE Lanes max(const Lanes& a, const Lanes& b) {
  Lanes r;
  ONEBIT_EACH r.p[i] = a.p[i] > b.p[i] ? a.p[i] : b.p[i];
  return r;
}
ONEBIT_INLINE Lanes min(const Lanes& a, const Lanes& b) {
  Lanes r;
  ONEBIT_EACH r.p[i] = a.p[i] < b.p[i] ? a.p[i] : b.p[i];
  return r;
}
ONEBIT_INLINE IntLanes max(const IntLanes& a, const IntLanes& b) {
  IntLanes r;
  ONEBIT_EACH r.p[i] = a.p[i] > b.p[i] ? a.p[i] : b.p[i];
  return r;
}
ONEBIT_INLINE Lanes abs(const Lanes& a) {
  Lanes r;
  ONEBIT_EACH r.p[i] = (Piece)((IntPiece)a.p[i] & 0x7fffffff);
  return r;
}
ONEBIT_INLINE IntLanes bits_of(const Lanes& a) {
  IntLanes r;
  ONEBIT_EACH r.p[i] = (IntPiece)a.p[i];
  return r;
}
// |a| as integers, which are ordered as the magnitudes are: infinity above numbers, then NaN. The
// largest of floats would pass over a NaN.
ONEBIT_INLINE IntLanes size_bits(const Lanes& a) { return bits_of(abs(a)); }
ONEBIT_INLINE Lanes float_of_bits(const IntLanes& a) {
  Lanes r;
  ONEBIT_EACH r.p[i] = (Piece)a.p[i];
  return r;
}
ONEBIT_INLINE Lanes to_float(const IntLanes& a) {
  Lanes r;
  ONEBIT_EACH r.p[i] = __builtin_convertvector(a.p[i], Piece);
  return r;
}

// The nearest integer, ties to even, for |a| < 2^22: adding 1.5 * 2^23 leaves it in the low bits.
constexpr float kRound = 12582912.0f;
ONEBIT_INLINE IntLanes round_to_int(const Lanes& a) {
  return bits_of(a + splat(kRound)) - bits_of(splat(kRound));
}

// Brought within the integers low..high first; a NaN becomes `high`.
ONEBIT_INLINE IntLanes round_within(const Lanes& a, float low, float high) {
  return round_to_int(max(min(a, splat(high)), splat(low)));
}

// Each is within -128..127.
typedef int8_t BytePiece __attribute__((vector_size(kPieceLanes)));
ONEBIT_INLINE void store_i8(int8_t* y, const IntLanes& a) {
  ONEBIT_EACH {
    const BytePiece part = __builtin_convertvector(a.p[i], BytePiece);
    memcpy(y + i * kPieceLanes, &part, kPieceLanes);
  }
}

// a in the first n lanes, `fill` in the others.
ONEBIT_INLINE Lanes first_lanes(const Lanes& a, int32_t n, float fill) {
  static const int32_t kLane[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const IntLanes lane = load(kLane);
  Lanes r;
  ONEBIT_EACH r.p[i] = lane.p[i] < n - IntPiece{} ? a.p[i] : fill - Piece{};
  return r;
}
// a from lane n on, `fill` in the lanes before.
ONEBIT_INLINE Lanes lanes_from(const Lanes& a, int32_t n, float fill) {
  static const int32_t kLane[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const IntLanes lane = load(kLane);
  Lanes r;
  ONEBIT_EACH r.p[i] = lane.p[i] < n - IntPiece{} ? fill - Piece{} : a.p[i];
  return r;
}
// 0, or NaN where a or b is one.
ONEBIT_INLINE Lanes unless_nan(const Lanes& a, const Lanes& b) {
  IntLanes r;
  ONEBIT_EACH r.p[i] = (a.p[i] != a.p[i]) | (b.p[i] != b.p[i]);
  return float_of_bits(r);
}
// a where test >= low, else zero.
ONEBIT_INLINE Lanes zero_below(const Lanes& a, const Lanes& test, float low) {
  Lanes r;
  ONEBIT_EACH r.p[i] = test.p[i] >= low - Piece{} ? a.p[i] : Piece{};
  return r;
}

// The first n of 16 floats; the rest are `fill`.
ONEBIT_INLINE Lanes load_part(const float* x, size_t n, float fill) {
  float part[16];
  for (size_t i = 0; i < 16; ++i) part[i] = i < n ? x[i] : fill;
  return load(part);
}
ONEBIT_INLINE void store_part(float* y, const Lanes& a, size_t n) {
  float part[16];
  store(part, a);
  for (size_t i = 0; i < n; ++i) y[i] = part[i];
}


// Sixteen numbers, or the first `count` of them where there are no more; lanes beyond are 0.
ONEBIT_INLINE Lanes load_up_to(const float* x, size_t count) {
  return count == 16 ? load(x) : load_part(x, count, 0.0f);
}
ONEBIT_INLINE void store_up_to(float* y, const Lanes& a, size_t count) {
  if (count == 16)
    store(y, a);
  else
    store_part(y, a, count);
}
ONEBIT_INLINE void store_i8_up_to(int8_t* y, const IntLanes& a, size_t count) {
  if (count == 16) return store_i8(y, a);
  int8_t part[16];
  store_i8(part, a);
  memcpy(y, part, count);
}

// Lane i gets lane i ^ H.
template <int H>
ONEBIT_INLINE Lanes swap_lanes(const Lanes& a) {
  Lanes r;
  for (int i = 0; i < kPieces; ++i) {
    if constexpr (H >= kPieceLanes) {
      r.p[i] = a.p[i ^ (H / kPieceLanes)];
    } else {
      const Piece& p = a.p[i];
#if ONEBIT_PIECE == 64
      r.p[i] = __builtin_shufflevector(p, p, 0 ^ H, 1 ^ H, 2 ^ H, 3 ^ H, 4 ^ H, 5 ^ H, 6 ^ H, 7 ^ H,
                                       8 ^ H, 9 ^ H, 10 ^ H, 11 ^ H, 12 ^ H, 13 ^ H, 14 ^ H, 15 ^ H);
#elif ONEBIT_PIECE == 32
      r.p[i] = __builtin_shufflevector(p, p, 0 ^ H, 1 ^ H, 2 ^ H, 3 ^ H, 4 ^ H, 5 ^ H, 6 ^ H, 7 ^ H);
#else
      r.p[i] = __builtin_shufflevector(p, p, 0 ^ H, 1 ^ H, 2 ^ H, 3 ^ H);
#endif
    }
  }
  return r;
}

// Across lanes, always in this order: halves, quarters, pairs.
ONEBIT_INLINE float sum_of(const Lanes& a) {
  Lanes s = a + swap_lanes<8>(a);
  s = s + swap_lanes<4>(s);
  s = s + swap_lanes<2>(s);
  s = s + swap_lanes<1>(s);
  return s.p[0][0];
}
ONEBIT_INLINE float max_of(const Lanes& a) {
  Lanes m = max(a, swap_lanes<8>(a));
  m = max(m, swap_lanes<4>(m));
  m = max(m, swap_lanes<2>(m));
  m = max(m, swap_lanes<1>(m));
  return m.p[0][0];
}
// The largest of size_bits, as the float that it stands for.
ONEBIT_INLINE float largest_of(const IntLanes& a) {
  IntLanes m = max(a, bits_of(swap_lanes<8>(float_of_bits(a))));
  m = max(m, bits_of(swap_lanes<4>(float_of_bits(m))));
  m = max(m, bits_of(swap_lanes<2>(float_of_bits(m))));
  m = max(m, bits_of(swap_lanes<1>(float_of_bits(m))));
  return float_of_bits(m).p[0][0];
}

#undef ONEBIT_EACH
