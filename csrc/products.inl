// The products, as templates over a layout. Needs float_ops.inl and, from the file of the
// instruction set, kTokens and kFloatTokens, the widest register tiles, and for each layout of
// codes one struct with
//   kColumns                              columns in a vector of 64 bytes
//   sums<T>(w, x, x_stride, vectors, u)   u[t] = 16 sums of unsigned code * x[t] over the vectors

// The rows of a tile that exist.
ONEBIT_INLINE size_t rows_of(const Product& p, size_t tile) {
  const size_t rest = p.rows - tile * kTileRows;
  return rest < kTileRows ? rest : kTileRows;
}

ONEBIT_INLINE void finish_tile(const Product& p, size_t tile, size_t t, Lanes y) {
  const size_t rows = rows_of(p, tile), first = tile * kTileRows;
  if (p.bias) y = y + (rows == 16 ? load(p.bias + first) : load_part(p.bias + first, rows, 0.0f));
  if (rows == 16)
    store(p.y + t * p.rows + first, y);
  else
    store_part(p.y + t * p.rows + first, y, rows);
}

template <int T>
ONEBIT_INLINE void store_sums(const Product& p, size_t tile, size_t t0, const IntLanes (&u)[T]) {
  for (int t = 0; t < T; ++t) {
    int32_t sums[16];
    store(sums, u[t]);
    for (size_t r = 0; r < rows_of(p, tile); ++r)
      p.sums[(t0 + t) * p.rows + tile * kTileRows + r] = sums[r];
  }
}

// Tokens t0 .. t0 + T - 1 of one tile.
template <class W, int T>
void code_tile(const Product& p, size_t tile, size_t t0) {
  const uint8_t* w = p.w + tile * p.tile_bytes;
  const int8_t* x = p.x + t0 * p.x_stride;
  const size_t group = p.columns / p.groups;
  Lanes y[T];
  for (int t = 0; t < T; ++t) y[t] = splat(0.0f);
  for (size_t s = 0; s < p.steps; ++s) {
    const size_t k = s * p.step;
    const size_t columns = p.columns - k < p.step ? p.columns - k : p.step;
    const size_t vectors = (columns + W::kColumns - 1) / W::kColumns;
    IntLanes u[T];
    W::template sums<T>(w, x + k, p.x_stride, vectors, u);
    w += 64 * vectors;
    for (int t = 0; t < T; ++t) u[t] = u[t] + splat(p.low * p.step_sum[(t0 + t) * p.steps + s]);
    if (p.sums) return store_sums<T>(p, tile, t0, u);  // one step, by contract
    const size_t at = (tile * p.groups + k / group) * 16;
    const Lanes scale = load(p.scale + at);
    const size_t block = p.x_blocks == 1 ? 0 : k / kBlock;
    for (int t = 0; t < T; ++t) {
      const float x_scale = p.x_scale[(t0 + t) * p.x_blocks + block];
      const Lanes part = to_float(u[t]) * (splat(x_scale) * scale);
      y[t] = s ? y[t] + part : part;
      if (p.minimum) {
        const float x_sum = (float)p.step_sum[(t0 + t) * p.steps + s];
        y[t] = y[t] + load(p.minimum + at) * splat(x_scale * x_sum);
      }
    }
  }
  for (int t = 0; t < T; ++t) finish_tile(p, tile, t0 + t, y[t]);
}

template <class W, int T>
void float_tile(const Product& p, size_t tile, size_t t0) {
  const auto* w = (const typename W::Stored*)(p.w + tile * p.tile_bytes);
  Lanes y[T];
  dots<W, T>(w, p.x_float + t0 * p.x_stride, p.x_stride, p.columns, y);
  for (int t = 0; t < T; ++t) finish_tile(p, tile, t0 + t, y[t]);
}

template <class W>
void gemv_codes(const Product& p, size_t begin, size_t end) {
  for (size_t tile = begin; tile < end; ++tile) code_tile<W, 1>(p, tile, 0);
}

template <class W>
void gemm_codes(const Product& p, size_t begin, size_t end) {
  for (size_t tile = begin; tile < end; ++tile) {
    size_t t = 0;
    for (; t + kTokens <= p.tokens; t += kTokens) code_tile<W, kTokens>(p, tile, t);
    for (; t + 2 <= p.tokens; t += 2) code_tile<W, 2>(p, tile, t);
    for (; t < p.tokens; ++t) code_tile<W, 1>(p, tile, t);
  }
}

template <class W>
void gemv_floats(const Product& p, size_t begin, size_t end) {
  for (size_t tile = begin; tile < end; ++tile) float_tile<W, 1>(p, tile, 0);
}

template <class W>
void gemm_floats(const Product& p, size_t begin, size_t end) {
  for (size_t tile = begin; tile < end; ++tile) {
    size_t t = 0;
    for (; t + kFloatTokens <= p.tokens; t += kFloatTokens) float_tile<W, kFloatTokens>(p, tile, t);
    for (; t < p.tokens; ++t) float_tile<W, 1>(p, tile, t);
  }
}

constexpr Ops make_ops(const char* isa) {
  return {isa,
          gemv_codes<T2>,
          gemm_codes<T2>,
          gemv_codes<I4>,
          gemm_codes<I4>,
          gemv_codes<I8>,
          gemm_codes<I8>,
          gemv_floats<F32>,
          gemm_floats<F32>,
          gemv_floats<F16>,
          gemm_floats<F16>,
          gemv_floats<BF16>,
          gemm_floats<BF16>,
          absmax,
          quantize_i8,
          quantize_i8_blocks,
          quantize_i4,
          dequantize,
          sum_by_16,
          rms_norm,
          normalize,
          glu_silu,
          glu_relu2,
          add,
          rope,
          exp_f32,
          hadamard,
          f32_to_f16,
          f16_to_f32,
          attend<F32>,
          attend<F16>};
}
