// The float operations, written once and compiled for every instruction set. Needs lanes.inl and,
// from the instruction set's file, fma, load_f16 and store_f16.

// e^x: x = n ln 2 + r, |r| <= 0.35; a degree-7 polynomial for e^r; 2^n in two halves, so that
// results below the normal range round once and results above it become infinity.
ONEBIT_INLINE Lanes exp(const Lanes& a) {
  const Lanes x = max(min(a, splat(89.0f)), splat(-104.0f));
  const IntLanes n = round_to_int(x * splat(1.44269504f));
  const Lanes nf = to_float(n);
  // ln 2 in two parts; the first has 9 bits, so n * 0.693359375 is exact.
  const Lanes r = fma(nf, splat(2.12194440e-4f), fma(nf, splat(-0.693359375f), x));
  Lanes p = splat(1.0f / 5040);
  p = fma(p, r, splat(1.0f / 720));
  p = fma(p, r, splat(1.0f / 120));
  p = fma(p, r, splat(1.0f / 24));
  p = fma(p, r, splat(1.0f / 6));
  p = fma(p, r, splat(0.5f));
  p = fma(p * r, r, r) + splat(1.0f);
  const IntLanes half = n >> 1;
  const Lanes scale_a = float_of_bits((half + splat(127)) << 23);
  const Lanes scale_b = float_of_bits(((n - half) + splat(127)) << 23);
  return (p * scale_a) * scale_b;
}

void exp_f32(const float* x, float* y, size_t n) {
  for (size_t i = 0; i < n; i += 16) {
    const size_t count = n - i < 16 ? n - i : 16;
    store_part(y + i, exp(load_part(x + i, count, 0.0f)), count);
  }
}

float normalize(const float* x, const float* w, float squares, float eps, float* y, size_t n) {
  const Lanes r = splat(1.0f / __builtin_sqrtf(squares / (float)n + eps));
  IntLanes largest = splat((int32_t)0);
  for (size_t i = 0; i < n; i += 16) {
    const size_t count = n - i < 16 ? n - i : 16;
    const Lanes out = (load_up_to(x + i, count) * r) * load_up_to(w + i, count);
    store_up_to(y + i, out, count);
    largest = max(size_bits(out), largest);
  }
  return largest_of(largest);
}

float layer_norm(const float* x, float eps, float* y, size_t n) {
  Lanes sum = splat(0.0f);
  for (size_t i = 0; i < n; i += 16) sum = sum + load_up_to(x + i, n - i < 16 ? n - i : 16);
  const Lanes mean = splat(sum_of(sum) / (float)n);
  Lanes squares = splat(0.0f);
  for (size_t i = 0; i < n; i += 16) {
    const size_t count = n - i < 16 ? n - i : 16;
    const Lanes v = load_up_to(x + i, count) - mean;
    squares = squares + (count == 16 ? v * v : first_lanes(v * v, (int32_t)count, 0.0f));
  }
  const Lanes r = splat(1.0f / __builtin_sqrtf(sum_of(squares) / (float)n + eps));
  IntLanes largest = splat((int32_t)0);
  for (size_t i = 0; i < n; i += 16) {
    const size_t count = n - i < 16 ? n - i : 16;
    const Lanes out = (load_up_to(x + i, count) - mean) * r;
    store_up_to(y + i, out, count);
    const Lanes counted = count == 16 ? out : first_lanes(out, (int32_t)count, 0.0f);
    largest = max(size_bits(counted), largest);
  }
  return largest_of(largest);
}

float rms_norm(const float* x, const float* w, float eps, float* y, size_t n) {
  Lanes sum = splat(0.0f);
  for (size_t i = 0; i < n; i += 16) {
    const Lanes v = load_up_to(x + i, n - i < 16 ? n - i : 16);
    sum = sum + v * v;
  }
  return normalize(x, w, sum_of(sum), eps, y, n);
}

// y = fn(a, b), and the sum of its squares in the order of rms_norm.
template <class Fn>
ONEBIT_INLINE float each_pair(const float* a, const float* b, float* y, size_t n, Fn&& fn) {
  Lanes sum = splat(0.0f);
  for (size_t i = 0; i < n; i += 16) {
    const size_t count = n - i < 16 ? n - i : 16;
    const Lanes out = fn(load_up_to(a + i, count), load_up_to(b + i, count));
    store_up_to(y + i, out, count);
    sum = sum + out * out;
  }
  return sum_of(sum);
}

float glu_silu(const float* gate, const float* up, float* y, size_t n) {
  return each_pair(gate, up, y, n, [](const Lanes& g, const Lanes& u) {
    return (g / (splat(1.0f) + exp(splat(0.0f) - g))) * u;
  });
}

float glu_relu2(const float* gate, const float* up, float* y, size_t n) {
  return each_pair(gate, up, y, n, [](const Lanes& g, const Lanes& u) {
    const Lanes positive = max(splat(0.0f), g);  // a NaN stays one
    return (positive * positive) * u;
  });
}

// By tanh, as 0.5 (1 + tanh u) = 1 / (1 + exp(-2 u)).
float glu_gelu_tanh(const float* gate, const float* up, float* y, size_t n) {
  return each_pair(gate, up, y, n, [](const Lanes& g, const Lanes& u) {
    const Lanes cube = (g * g) * (g * splat(0.044715f));
    const Lanes x = (g + cube) * splat(-1.5957691216f);  // -2 sqrt(2 / pi)
    return (g / (splat(1.0f) + exp(x))) * u;
  });
}

ONEBIT_INLINE Lanes sigmoid(const Lanes& x) {
  return splat(1.0f) / (splat(1.0f) + exp(splat(0.0f) - x));
}

float glu_sigmoid(const float* gate, const float* up, float* y, size_t n) {
  return each_pair(gate, up, y, n,
                   [](const Lanes& g, const Lanes& u) { return sigmoid(g) * u; });
}

void mlgru(const float* f, float* i, const float* lower, float* h, size_t T, size_t stride,
           size_t n) {
  const Lanes one = splat(1.0f);
  for (size_t t = 0; t < T; ++t, f += stride, i += stride)
    for (size_t k = 0; k < n; k += 16) {
      const size_t count = n - k < 16 ? n - k : 16;
      Lanes s = sigmoid(load_up_to(f + k, count));
      if (lower) {
        const Lanes low = load_up_to(lower + k, count);
        s = low + (one - low) * s;
      }
      const Lanes c = load_up_to(i + k, count);
      const Lanes in = (c / (one + exp(splat(0.0f) - c))) * (one - s);
      const Lanes out = s * load_up_to(h + k, count) + in;
      store_up_to(h + k, out, count);
      store_up_to(i + k, out, count);
    }
}

float add(const float* x, float* y, size_t n) {
  return each_pair(y, x, y, n, [](const Lanes& a, const Lanes& b) { return a + b; });
}

void rope(float* x, const float* cos, const float* sin, size_t half) {
  for (size_t i = 0; i < half; i += 16) {
    const size_t count = half - i < 16 ? half - i : 16;
    const Lanes a = load_up_to(x + i, count), b = load_up_to(x + half + i, count);
    const Lanes c = load_up_to(cos + i, count), s = load_up_to(sin + i, count);
    store_up_to(x + i, a * c - b * s, count);
    store_up_to(x + half + i, b * c + a * s, count);
  }
}

void f32_to_f16(const float* x, uint16_t* y, size_t n) {
  size_t i = 0;
  for (; i + 16 <= n; i += 16) store_f16(y + i, load(x + i));
  if (i == n) return;
  uint16_t part[16];
  store_f16(part, load_part(x + i, n - i, 0.0f));
  memcpy(y + i, part, (n - i) * sizeof(uint16_t));
}

void f16_to_f32(const uint16_t* x, float* y, size_t n) {
  size_t i = 0;
  for (; i + 16 <= n; i += 16) store(y + i, load_f16(x + i));
  if (i == n) return;
  uint16_t part[16] = {};
  memcpy(part, x + i, (n - i) * sizeof(uint16_t));
  store_part(y + i, load_f16(part), n - i);
}

// How sixteen stored numbers become floats.
struct F32 {
  typedef float Stored;
  static ONEBIT_INLINE Lanes lanes(const float* x) { return load(x); }
};
struct F16 {
  typedef uint16_t Stored;
  static ONEBIT_INLINE Lanes lanes(const uint16_t* x) { return load_f16(x); }
};
struct BF16 {
  typedef uint16_t Stored;
  static ONEBIT_INLINE Lanes lanes(const uint16_t* x) {
    int32_t bits[16];
    for (int i = 0; i < 16; ++i) bits[i] = (int32_t)((uint32_t)x[i] << 16);
    return float_of_bits(load(bits));
  }
};

// y[t] = the 16 dot products of a tile (K columns of 16 rows) with x[t], for T tokens.
template <class W, int T>
ONEBIT_INLINE void dots(const typename W::Stored* w, const float* x, size_t x_stride, size_t K,
                        Lanes (&y)[T]) {
  Lanes sum[T][4];
  for (int t = 0; t < T; ++t)
    for (int j = 0; j < 4; ++j) sum[t][j] = splat(0.0f);
  size_t k = 0;
  for (; k + 4 <= K; k += 4)
    for (int j = 0; j < 4; ++j) {
      const Lanes column = W::lanes(w + 16 * (k + j));
      for (int t = 0; t < T; ++t)
        sum[t][j] = fma(column, splat(x[t * x_stride + k + j]), sum[t][j]);
    }
  for (int j = 0; k + j < K; ++j) {
    const Lanes column = W::lanes(w + 16 * (k + j));
    for (int t = 0; t < T; ++t) sum[t][j] = fma(column, splat(x[t * x_stride + k + j]), sum[t][j]);
  }
  for (int t = 0; t < T; ++t) y[t] = (sum[t][0] + sum[t][1]) + (sum[t][2] + sum[t][3]);
}
