// Rows of floats and codes for training.cpp, over sixteen lanes: the same bits on every instruction
// set. Needs lanes.inl.

typedef uint16_t HalfPiece __attribute__((vector_size(2 * kPieceLanes)));
typedef int16_t ShortPiece __attribute__((vector_size(2 * kPieceLanes)));

struct F32 {
  typedef float Stored;
  static ONEBIT_INLINE Lanes lanes(const float* x) { return load(x); }
  static ONEBIT_INLINE void put(float* y, const Lanes& a) { store(y, a); }
};

// Rounded to the nearest, ties to even; NaN stays NaN.
struct BF16 {
  typedef uint16_t Stored;
  static ONEBIT_INLINE Lanes lanes(const uint16_t* x) {
    IntLanes r;
    for (int i = 0; i < kPieces; ++i) {
      HalfPiece half;
      memcpy(&half, x + i * kPieceLanes, sizeof half);
      r.p[i] = __builtin_convertvector(half, IntPiece) << 16;
    }
    return float_of_bits(r);
  }
  static ONEBIT_INLINE void put(uint16_t* y, const Lanes& a) {
    const IntLanes bits = bits_of(a);
    for (int i = 0; i < kPieces; ++i) {
      const IntPiece b = bits.p[i];
      const IntPiece rounded = (b + 0x7fff + (b >> 16 & 1)) >> 16;
      const IntPiece kept = (b & 0x7fffffff) > 0x7f800000 ? (b >> 16 | 0x40) : rounded;
      const HalfPiece half = __builtin_convertvector(kept, HalfPiece);
      memcpy(y + i * kPieceLanes, &half, sizeof half);
    }
  }
};

// Calls f(k, lanes of x from k on, how many of them count); the others are 0.
template <class From, class F>
ONEBIT_INLINE void each_sixteen(const typename From::Stored* x, size_t K, F&& f) {
  size_t k = 0;
  for (; k + 16 <= K; k += 16) f(k, From::lanes(x + k), size_t{16});
  if (k == K) return;
  typename From::Stored part[16] = {};
  memcpy(part, x + k, (K - k) * sizeof *x);
  f(k, From::lanes(part), K - k);
}

// The same of two rows.
template <class From, class F>
ONEBIT_INLINE void each_pair(const typename From::Stored* a, const typename From::Stored* b,
                             size_t K, F&& f) {
  size_t k = 0;
  for (; k + 16 <= K; k += 16) f(k, From::lanes(a + k), From::lanes(b + k), size_t{16});
  if (k == K) return;
  typename From::Stored part[2][16] = {};
  memcpy(part[0], a + k, (K - k) * sizeof *a);
  memcpy(part[1], b + k, (K - k) * sizeof *b);
  f(k, From::lanes(part[0]), From::lanes(part[1]), K - k);
}

template <class To>
ONEBIT_INLINE void put_up_to(typename To::Stored* y, const Lanes& a, size_t count) {
  if (count == 16) return To::put(y, a);
  typename To::Stored part[16];
  To::put(part, a);
  memcpy(y, part, count * sizeof *y);
}

template <class From>
float quantize(const typename From::Stored* x, size_t K, int8_t* codes, int32_t* sum) {
  IntLanes most = splat(0);
  each_sixteen<From>(x, K, [&](size_t, const Lanes& v, size_t) { most = max(size_bits(v), most); });
  const float size = largest_of(most);
  const float nan = size - size;  // or 0; NaN for infinity too, whose products are no numbers either
  const float m = size > 1e-5f ? size : 1e-5f;
  const Lanes factor = splat(127.0f / m);
  IntLanes all = splat(0);
  each_sixteen<From>(x, K, [&](size_t k, const Lanes& v, size_t count) {
    const IntLanes code = round_within(v * factor, -127.0f, 127.0f);
    all = all + code;
    store_i8_up_to(codes + k, code, count);
  });
  int32_t lanes[16];
  store(lanes, all);
  *sum = 0;
  for (int32_t lane : lanes) *sum += lane;
  return m / 127.0f + nan;
}

template <class To>
void dequantize(const int8_t* codes, float scale, size_t K, typename To::Stored* y) {
  const auto values = [&](const int8_t* from) {
    Lanes r;
    for (int i = 0; i < kPieces; ++i) {
      BytePiece part;
      memcpy(&part, from + i * kPieceLanes, kPieceLanes);
      // in two steps: in one, GCC 12 takes each byte by itself
      const ShortPiece wide = __builtin_convertvector(part, ShortPiece);
      r.p[i] = __builtin_convertvector(__builtin_convertvector(wide, IntPiece), Piece);
    }
    return r * splat(scale);
  };
  size_t k = 0;
  for (; k + 16 <= K; k += 16) To::put(y + k, values(codes + k));
  if (k == K) return;
  int8_t part[16] = {};
  memcpy(part, codes + k, K - k);
  put_up_to<To>(y + k, values(part), K - k);
}

void ternarize(const float* w, float inverse, size_t K, int8_t* codes) {
  each_sixteen<F32>(w, K, [&](size_t k, const Lanes& v, size_t count) {
    store_i8_up_to(codes + k, round_within(v * splat(inverse), -1.0f, 1.0f), count);
  });
}

void round_bf16(const float* x, size_t n, uint16_t* y) {
  each_sixteen<F32>(x, n, [&](size_t k, const Lanes& v, size_t count) {
    put_up_to<BF16>(y + k, v, count);
  });
}

// y = (x * r) * w with r = 1 / sqrt(mean(x^2) + eps), which is returned.
template <class T>
float normalize(const typename T::Stored* x, const float* w, float eps, size_t K,
                typename T::Stored* y) {
  Lanes squares = splat(0.0f);
  each_sixteen<T>(x, K, [&](size_t, const Lanes& v, size_t) { squares = squares + v * v; });
  const float r = 1.0f / __builtin_sqrtf(sum_of(squares) / (float)K + eps);
  each_sixteen<T>(x, K, [&](size_t k, const Lanes& v, size_t count) {
    put_up_to<T>(y + k, (v * splat(r)) * load_up_to(w + k, count), count);
  });
  return r;
}

// With h = x r and g = dy w:  dx = (g - h mean(g h)) r, and dw += dy h.
template <class T>
void normalize_backward(const typename T::Stored* x, const float* w, float r,
                        const typename T::Stored* dy, size_t K, typename T::Stored* dx, float* dw) {
  Lanes products = splat(0.0f);
  each_pair<T>(x, dy, K, [&](size_t k, const Lanes& v, const Lanes& d, size_t count) {
    const Lanes slope = d * (v * splat(r));
    products = products + slope * load_up_to(w + k, count);
    store_up_to(dw + k, load_up_to(dw + k, count) + slope, count);
  });
  const Lanes mean = splat(sum_of(products) / (float)K);
  each_pair<T>(x, dy, K, [&](size_t k, const Lanes& v, const Lanes& d, size_t count) {
    const Lanes g = d * load_up_to(w + k, count);
    put_up_to<T>(dx + k, (g - (v * splat(r)) * mean) * splat(r), count);
  });
}

constexpr RowOps kTable = {
    &quantize<F32>,  &quantize<BF16>,  &dequantize<F32>,         &dequantize<BF16>,         &ternarize,
    &round_bf16,     &normalize<F32>,  &normalize<BF16>,         &normalize_backward<F32>,
    &normalize_backward<BF16>,
};
