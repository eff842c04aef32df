// How activations become codes, written once and compiled for every instruction set; the contracts
// are in ops.h. Needs lanes.inl.

float absmax(const float* x, size_t n) {
  IntLanes m = splat((int32_t)0);
  size_t i = 0;
  for (; i + 16 <= n; i += 16) m = max(size_bits(load(x + i)), m);
  if (i < n) m = max(size_bits(load_part(x + i, n - i, 0.0f)), m);
  return largest_of(m);
}

// What is divided by for rows of this size.
ONEBIT_INLINE float divisor_of(float size) { return size > 1e-5f ? size : 1e-5f; }

// 0, or NaN where `size` is NaN or infinite: added to a scale, it marks the whole row, whose codes
// mean nothing then.
ONEBIT_INLINE float unless_finite(float size) { return size - size; }

// codes = fn(sixteen of x), integers of eight bits.
template <class Fn>
ONEBIT_INLINE void each_code(const float* x, size_t n, int8_t* codes, Fn&& fn) {
  for (size_t i = 0; i < n; i += 16) {
    const size_t count = n - i < 16 ? n - i : 16;
    store_i8_up_to(codes + i, fn(load_up_to(x + i, count)), count);
  }
}

float quantize(const float* x, size_t n, float size, const Range& range, int8_t* codes) {
  const float m = divisor_of(size);
  const Lanes factor = splat(range.steps / m);
  each_code(x, n, codes,
            [&](const Lanes& a) { return round_within(a * factor, range.low, range.high); });
  return m / range.steps + unless_finite(size);
}

void quantize_i8_blocks(const float* x, size_t n, int8_t* codes, float* scale) {
  for (size_t i = 0; i < n; i += kBlock) {
    const size_t count = n - i < kBlock ? n - i : kBlock;
    scale[i / kBlock] = quantize(x + i, count, absmax(x + i, count), kInt8, codes + i);
  }
}

ONEBIT_INLINE Lanes load_i8_up_to(const int8_t* x, size_t count) {
  if (count == 16) return load_i8(x);
  int8_t part[16] = {};
  memcpy(part, x, count);
  return load_i8(part);
}

void remainder_i8_blocks(const float* x, size_t n, const int8_t* codes, const float* scale,
                         int8_t* rest, float* rest_scale) {
  constexpr float kSteps = 254.0f;  // what rounding leaves is within half a step
  for (size_t i = 0; i < n; i += 16) {
    const size_t count = n - i < 16 ? n - i : 16;
    const float step = scale[i / kBlock];
    const Lanes left = fma(load_i8_up_to(codes + i, count), splat(-step), load_up_to(x + i, count));
    const IntLanes code = round_within(left * splat(kSteps / step), kInt8.low, kInt8.high);
    store_i8_up_to(rest + i, code, count);
    rest_scale[i / kBlock] = step / kSteps;
  }
}

// Lane j of `sum` adds the magnitudes of x[16 i + j], in doubles.
float absmean(const float* x, size_t n) {
  constexpr int kHalves = 2 * kPieces, kHalfLanes = kPieceLanes / 2;
  typedef float Half __attribute__((vector_size(ONEBIT_PIECE / 2)));
  typedef double Doubles __attribute__((vector_size(ONEBIT_PIECE)));
  Doubles sums[kHalves] = {};
  for (size_t i = 0; i < n; i += 16) {
    float size[16];
    store(size, abs(load_up_to(x + i, n - i < 16 ? n - i : 16)));
    for (int h = 0; h < kHalves; ++h) {
      Half half;
      memcpy(&half, size + h * kHalfLanes, sizeof half);
      sums[h] += __builtin_convertvector(half, Doubles);
    }
  }
  double sum[16];
  memcpy(sum, sums, sizeof sum);
  for (int width = 8; width; width /= 2)
    for (int j = 0; j < width; ++j) sum[j] += sum[j + width];
  return (float)(sum[0] / (double)n);
}

// The nearest level of E2M1, doubled; ties to the level of even index. From 4 on levels are 2 apart,
// from 8 on 4, and half of all halves round to even ones.
ONEBIT_INLINE IntLanes nearest_fp4(const Lanes& v) {
  const Lanes a = abs(v), four = splat(4.0f), eight = splat(8.0f);
  const IntLanes ones = round_to_int(min(a, four));
  const IntLanes twos = round_to_int((max(min(a, eight), four) - four) * splat(0.5f));
  const IntLanes fours = round_to_int((max(a, eight) - eight) * splat(0.25f));
  const IntLanes code = ones + (twos << 1) + (fours << 2);
  return code - ((code & (bits_of(v) >> 31)) << 1);
}

float quantize_fp4(const float* x, size_t n, float size, int8_t* codes) {
  const float m = divisor_of(size);
  const Lanes factor = splat(12.0f / m), most = splat(12.0f), least = splat(-12.0f);
  each_code(x, n, codes,
            [&](const Lanes& a) { return nearest_fp4(max(min(a * factor, most), least)); });
  return m / 12.0f + unless_finite(size);
}

float quantize_positive(const float* x, size_t n, int8_t* codes, float* low) {
  constexpr float kLargest = 3.40282347e38f;  // of all floats
  Lanes least = splat(kLargest), most = splat(-kLargest);
  IntLanes largest = splat((int32_t)0);
  for (size_t i = 0; i < n; i += 16) {
    const size_t count = n - i < 16 ? n - i : 16;
    const Lanes v = load_up_to(x + i, count);
    least = min(count == 16 ? v : first_lanes(v, (int32_t)count, kLargest), least);
    most = max(count == 16 ? v : first_lanes(v, (int32_t)count, -kLargest), most);
    largest = max(size_bits(v), largest);
  }
  const float bottom = -max_of(splat(0.0f) - least), mark = unless_finite(largest_of(largest));
  const float m = divisor_of(max_of(most) - bottom);
  const Lanes factor = splat(128.0f / m), from = splat(bottom);
  each_code(x, n, codes,
            [&](const Lanes& a) { return round_within((a - from) * factor, 0.0f, 127.0f); });
  *low = bottom - mark;  // where + would lose the sign of -0
  return m / 128.0f + mark;
}

// -1 where the magnitude of a, as the integer of its bits, is at least `low`, else 0.
ONEBIT_INLINE IntLanes reaches(const Lanes& a, int32_t low) {
  return (splat(low - 1) - bits_of(abs(a))) >> 31;
}

// How many of n magnitudes reach `low`, which is above 0.
ONEBIT_INLINE size_t count_from(const float* x, size_t n, int32_t low) {
  IntLanes sum = splat((int32_t)0);
  for (size_t i = 0; i < n; i += 16)
    sum = sum - reaches(load_up_to(x + i, n - i < 16 ? n - i : 16), low);
  int32_t part[16], total = 0;
  store(part, sum);
  for (int j = 0; j < 16; ++j) total += part[j];
  return (size_t)total;
}

// Floats of one sign are ordered as their bits are: the threshold is found by halving a range of
// integers. Any number between the ceil(n / 2)-th largest and the next one keeps the same codes, so
// the search ends at the first that does.
float quantize_half(const float* x, size_t n, float size, int8_t* codes) {
  const size_t kept = (n + 1) / 2;
  int32_t low = 0, high = 0x7f800000;  // low keeps enough, high does not
  memcpy(&high, &size, sizeof high);
  ++high;
  while (high - low > 1) {
    const int32_t middle = low + (high - low) / 2;
    const size_t count = count_from(x, n, middle);
    (count < kept ? high : low) = middle;
    if (count == kept) break;
  }
  const float m = divisor_of(size);
  const Lanes factor = splat(127.0f / m);
  each_code(x, n, codes, [&](const Lanes& a) {
    return round_within(a * factor, kInt8.low, kInt8.high) & reaches(a, low);
  });
  return m / 127.0f + unless_finite(size);
}

void dequantize(const int8_t* codes, float scale, float* y, size_t n) {
  for (size_t i = 0; i < n; ++i) y[i] = (float)codes[i] * scale;
}

void sum_by_16(const int8_t* codes, int32_t* sums, size_t n) {
  size_t i = 0;
  for (; i + 4 <= n; i += 4) {
    int32_t four[16];  // sums of four codes
    memcpy(four, codes + 16 * i, 64);
    const IntLanes v = load(four);
    store(four, (((v << 24) >> 24) + ((v << 16) >> 24)) + (((v << 8) >> 24) + (v >> 24)));
    for (size_t j = 0; j < 4; ++j)
      sums[i + j] = (four[4 * j] + four[4 * j + 1]) + (four[4 * j + 2] + four[4 * j + 3]);
  }
  for (; i < n; ++i) {
    sums[i] = 0;
    for (size_t j = 0; j < 16; ++j) sums[i] += codes[16 * i + j];
  }
}
