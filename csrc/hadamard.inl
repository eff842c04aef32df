// The fast Hadamard transform; the contract is in ops.h. Needs lanes.inl and fma.

// (a, b) -> (a + b, a - b) for lanes H apart.
template <int H>
ONEBIT_INLINE Lanes butterfly(const Lanes& a) {
  alignas(64) static const float kSign[16] = {
      1, 1 & H ? -1 : 1, 2 & H ? -1 : 1, 3 & H ? -1 : 1, 4 & H ? -1 : 1, 5 & H ? -1 : 1,
      6 & H ? -1 : 1, 7 & H ? -1 : 1, 8 & H ? -1 : 1, 9 & H ? -1 : 1, 10 & H ? -1 : 1,
      11 & H ? -1 : 1, 12 & H ? -1 : 1, 13 & H ? -1 : 1, 14 & H ? -1 : 1, 15 & H ? -1 : 1};
  return fma(a, load(kSign), swap_lanes<H>(a));
}

// A block of n = 2^k numbers.
ONEBIT_INLINE void hadamard_power(float* x, size_t n) {
  if (n < 16) {
    for (size_t h = 1; h < n; h *= 2)
      for (size_t i = 0; i < n; i += 2 * h)
        for (size_t j = i; j < i + h; ++j) {
          const float a = x[j], b = x[j + h];
          x[j] = a + b;
          x[j + h] = a - b;
        }
    return;
  }
  for (size_t i = 0; i < n; i += 16)
    store(x + i, butterfly<8>(butterfly<4>(butterfly<2>(butterfly<1>(load(x + i))))));
  for (size_t h = 16; h < n; h *= 2)
    for (size_t i = 0; i < n; i += 2 * h)
      for (size_t j = i; j < i + h; j += 16) {
        const Lanes a = load(x + j), b = load(x + j + h);
        store(x + j, a + b);
        store(x + j + h, a - b);
      }
}

// y[i] = sum over j of signs[i][j] * x[j], in the order of j, for R rows i of m.
// x: m times sixteen numbers, x_stride apart; y: [R][16].
template <int R>
ONEBIT_INLINE void multiply_rows(const float* signs, size_t m, const float* x, size_t x_stride,
                                 float* y) {
  Lanes sum[R];
  for (int r = 0; r < R; ++r) sum[r] = splat(0.0f);
  for (size_t j = 0; j < m; ++j) {
    const Lanes v = load(x + j * x_stride);
    for (int r = 0; r < R; ++r) sum[r] = fma(v, splat(signs[r * m + j]), sum[r]);
  }
  for (int r = 0; r < R; ++r) store(y + 16 * r, sum[r]);
}

// All m rows, a multiple of 4, at least 12. As many sums side by side as hide the latency of fma and
// stay in registers: eight registers of sums or more, of which wide ones hold a row each.
ONEBIT_INLINE void multiply_signs(const float* signs, size_t m, const float* x, size_t x_stride,
                                  float* y) {
  for (size_t i = 0; i < m;) {
    const size_t left = m - i, rows = kPieces > 1 ? 4 : left >= 12 && left != 16 ? 12 : 8;
    const float* from = signs + i * m;
    if (rows == 12)
      multiply_rows<12>(from, m, x, x_stride, y + 16 * i);
    else if (rows == 8)
      multiply_rows<8>(from, m, x, x_stride, y + 16 * i);
    else
      multiply_rows<4>(from, m, x, x_stride, y + 16 * i);
    i += rows;
  }
}

// One axis of a block of n numbers: m numbers, `stride` apart. Sixteen neighbours go in lanes, or,
// where fewer stand side by side, the same place of sixteen outer indices.
ONEBIT_INLINE void hadamard_axis(float* x, size_t n, const float* signs, size_t m, size_t stride) {
  alignas(64) float in[256 * 16], out[256 * 16];
  if (stride >= 16) {
    for (size_t outer = 0; outer < n; outer += m * stride)
      for (size_t c = 0; c < stride; c += 16) {
        const size_t count = stride - c < 16 ? stride - c : 16;
        float* at = x + outer + c;
        if (count == 16) {
          multiply_signs(signs, m, at, stride, out);
        } else {
          for (size_t j = 0; j < m; ++j)
            store(in + 16 * j, load_part(at + j * stride, count, 0.0f));
          multiply_signs(signs, m, in, 16, out);
        }
        for (size_t j = 0; j < m; ++j) store_up_to(at + j * stride, load(out + 16 * j), count);
      }
    return;
  }
  const size_t outers = n / (m * stride);
  for (size_t outer = 0; outer < outers; outer += 16) {
    const size_t count = outers - outer < 16 ? outers - outer : 16;
    for (size_t c = 0; c < stride; ++c) {
      float* at = x + outer * m * stride + c;
      for (size_t j = 0; j < m; ++j)
        for (size_t l = 0; l < 16; ++l)
          in[16 * j + l] = l < count ? at[(l * m + j) * stride] : 0.0f;
      multiply_signs(signs, m, in, 16, out);
      for (size_t j = 0; j < m; ++j)
        for (size_t l = 0; l < count; ++l) at[(l * m + j) * stride] = out[16 * j + l];
    }
  }
}

float hadamard(const Hadamard& plan, float* x) {
  for (size_t block = 0; block < plan.n; block += plan.size) {
    for (size_t i = 0; i < plan.size; i += plan.power) hadamard_power(x + block + i, plan.power);
    size_t stride = plan.power;
    for (size_t a = 0; a < plan.axes; ++a) {
      hadamard_axis(x + block, plan.size, plan.signs[a], plan.order[a], stride);
      stride *= plan.order[a];
    }
  }
  const Lanes scale = splat(plan.scale);
  IntLanes largest = splat((int32_t)0);
  for (size_t i = 0; i < plan.n; i += 16) {
    const size_t count = plan.n - i < 16 ? plan.n - i : 16;
    const Lanes y = load_up_to(x + i, count) * scale;
    store_up_to(x + i, y, count);
    largest = max(size_bits(y), largest);
  }
  return largest_of(largest);
}
