// The products, as templates over a layout. Needs float_ops.inl and, from the file of the
// instruction set,
//   kTokens, kFloatTokens   the widest register tiles, in tokens
//   tiles_of<W>(T)          tiles of 16 rows in a register tile with T tokens: 1 or 2
// and a struct for each layout of codes, T2, B1, I4, I8 (and I6, if it defines ONEBIT_OWN_I6), with
//   kColumns                columns in a vector of 64 bytes
//   sums<R, T>(w, tile_bytes, x, x_step, vectors, u)
//                           u[r][t] += 16 sums of unsigned code * x over the vectors of tile r, for
//                           R tiles that are tile_bytes apart; token t's four bytes of columns
//                           4 i .. 4 i + 3 are at x + i * x_step + 4 t
// and T1_6, with
//   decode(w, blocks, out)  each block of 4 vectors of t1_6 becomes 5 of t2, columns in the order
//                           that matrix.h gives
//   kDirect                 whether there is, for a panel of T up to 8 tokens,
//   sums<R, T>(w, tile_bytes, x, blocks, u)
//                           u[r][t] += 16 sums of unsigned code * x over the blocks of tile r, for
//                           R tiles that are tile_bytes apart; tiles_of<T1_6>(T) says how many

#if !defined(ONEBIT_UNROLL)  // registers would not hold what comes of it
#define ONEBIT_UNROLL
#endif

constexpr size_t kBlockVectors = 4, kBlockColumns = 80;  // of t1_6
constexpr size_t kDecodeBlocks = 16;   // blocks of t1_6 decoded at most at a time: 5 KB of t2 a tile
constexpr size_t kDecodeTokens = 132;  // tokens that share what was decoded; a multiple of 12
constexpr size_t kCacheBytes = 1 << 19;  // of activations that stay in a core's own cache

// Tokens that a register tile takes at once from a panel of P: the largest divisor that fits.
constexpr int tokens_at_once(int P) {
  int t = P < kTokens ? P : kTokens;
  while (P % t) --t;
  return t;
}

// Layout i6, decoded to i8 a unit of 16 columns at a time.
struct DecodedI6 {
  static constexpr size_t kColumns = 16;

  static ONEBIT_INLINE IntPiece piece(const uint8_t* w) {
    IntPiece v;
    memcpy(&v, w, ONEBIT_PIECE);
    return v;
  }
  static ONEBIT_INLINE void decode(const uint8_t* w, uint8_t* out) {
    for (int i = 0; i < 64; i += ONEBIT_PIECE) {
      const IntPiece pairs = piece(w + 128 + i);
      for (int m = 0; m < 4; ++m) {
        const IntPiece halves = piece(w + 64 * (m / 2) + i) >> (4 * (m % 2)) & 0x0f0f0f0f;
        const IntPiece code = halves | (pairs >> (2 * m) & 0x03030303) << 4;
        memcpy(out + 64 * m + i, &code, ONEBIT_PIECE);
      }
    }
  }

  template <int R, int T>
  static ONEBIT_INLINE void sums(const uint8_t* w, size_t tile_bytes, const int8_t* x,
                                 size_t x_step, size_t units, IntLanes (&u)[R][T]) {
    for (; units; --units, w += 192, x += 4 * x_step) {
      alignas(64) uint8_t codes[R][256];
      for (int r = 0; r < R; ++r) decode(w + r * tile_bytes, codes[r]);
      I8::template sums<R, T>(codes[0], 256, x, x_step, 4, u);
    }
  }
};
#if !defined(ONEBIT_OWN_I6)
using I6 = DecodedI6;
#endif

// Bytes that hold kColumns of a tile.
template <class W>
constexpr size_t kUnitBytes = 64;
template <>
constexpr size_t kUnitBytes<I6> = 192;

// Scales or minima of a group of a tile.
ONEBIT_INLINE Lanes factors(const Product& p, const float* wide, const uint8_t* small, size_t tile,
                            size_t g) {
  const size_t at = (tile * p.groups + g) * 16;
  if (p.factor_bytes == 4) return load(wide + at);
  if (p.factor_bytes == 2) return load_f16((const uint16_t*)small + at);
  return load_i8((const int8_t*)small + at) *
         load(wide + (tile * p.wide_groups + (g >> p.wide_shift)) * 16);
}

// The rows of a tile that exist.
ONEBIT_INLINE size_t rows_of(const Product& p, size_t tile) {
  const size_t rest = p.rows - tile * kTileRows;
  return rest < kTileRows ? rest : kTileRows;
}

ONEBIT_INLINE void finish_tile(const Product& p, size_t tile, size_t t, Lanes y) {
  const size_t rows = rows_of(p, tile), first = tile * kTileRows;
  if (p.two_terms) {  // a thread finishes the tokens of a tile in order
    const bool second = t % 2;
    t /= 2;
    if (second) {
      float* of_first = p.y + t * p.rows + first;
      y = load_up_to(of_first, rows) + y;
      return store_up_to(of_first, y, rows);
    }
  }
  if (p.bias) y = y + (rows == 16 ? load(p.bias + first) : load_part(p.bias + first, rows, 0.0f));
  if (rows == 16)
    store(p.y + t * p.rows + first, y);
  else
    store_part(p.y + t * p.rows + first, y, rows);
}

ONEBIT_INLINE void store_sums(const Product& p, size_t tile, size_t t, const IntLanes& u) {
  int32_t sums[16];
  store(sums, u);
  for (size_t r = 0; r < rows_of(p, tile); ++r) p.sums[t * p.rows + tile * kTileRows + r] = sums[r];
}

// The sums of a whole row, of one step, become y.
ONEBIT_INLINE void finish_sums(const Product& p, size_t tile, size_t t, IntLanes u) {
  u = u + splat(p.low_sum[t]);
  if (p.sums) return store_sums(p, tile, t, u);
  Lanes y = to_float(u) * (splat(p.x_scale[t]) * load(p.scale + tile * 16));
  if (p.minimum) y = y + load(p.minimum + tile * 16) * splat(p.scaled_sum[t]);
  finish_tile(p, tile, t, y);
}

// One step: R tiles and T tokens, from number i on of the panel of P that starts at token t.
template <class W, int R, int T, int P>
ONEBIT_INLINE void row_tile(const Product& p, size_t tile, size_t t, int i) {
  IntLanes u[R][T];
  for (int r = 0; r < R; ++r)
    for (int j = 0; j < T; ++j) u[r][j] = splat(0);
  const size_t vectors = (p.columns + W::kColumns - 1) / W::kColumns;
  W::template sums<R, T>(p.w + tile * p.tile_bytes, p.tile_bytes, p.x + t * p.x_stride + 4 * i,
                         4 * P, vectors, u);
  for (int r = 0; r < R; ++r)
    for (int j = 0; j < T; ++j) finish_sums(p, tile + r, t + i + j, u[r][j]);
}

// Several steps: one tile, whose float sums stay in registers.
template <class W, int R, int T, int P>
ONEBIT_INLINE void step_tile(const Product& p, size_t tile, size_t t, int i) {
  static_assert(R == 1, "a tile at a time");
  const uint8_t* w = p.w + tile * p.tile_bytes;
  const int8_t* x = p.x + t * p.x_stride + 4 * i;
  const float* x_scale = p.x_scale + t * p.x_blocks + i;
  const int32_t* low_sum = p.low_sum + t * p.steps + i;
  typename W::Scratch scratch;
  const size_t group = p.columns / p.groups;
  const bool has_minimum = p.minimum || p.small_minimum;
  const float* scaled_sum = has_minimum ? p.scaled_sum + t * p.steps + i : nullptr;
  Lanes y[T];
  ONEBIT_UNROLL for (int j = 0; j < T; ++j) y[j] = splat(-0.0f);  // adds nothing, not even a sign
  for (size_t s = 0, k = 0, g = 0, next = group; s < p.steps; ++s, k += p.step) {
    if (k == next) {
      ++g;
      next += group;
    }
    const size_t columns = p.columns - k < p.step ? p.columns - k : p.step;
    const size_t vectors = (columns + W::kColumns - 1) / W::kColumns;
    IntLanes u[1][T];
    ONEBIT_UNROLL for (int j = 0; j < T; ++j) u[0][j] = splat(low_sum[s * P + j]);
    W::template sums<1, T>(W::at(w, p.tile_bytes, k, scratch), 0, x + k * P, 4 * P, vectors, u);
    const Lanes scale = factors(p, p.scale, p.small_scale, tile, g);
    const size_t block = p.x_blocks == 1 ? 0 : k / kBlock;
    ONEBIT_UNROLL for (int j = 0; j < T; ++j)
      y[j] = y[j] + to_float(u[0][j]) * (splat(x_scale[block * P + j]) * scale);
    if (!has_minimum) continue;
    const Lanes minimum = factors(p, p.minimum, p.small_minimum, tile, g);
    ONEBIT_UNROLL for (int j = 0; j < T; ++j)
      y[j] = y[j] + minimum * splat(scaled_sum[s * P + j]);
  }
  ONEBIT_UNROLL for (int j = 0; j < T; ++j) finish_tile(p, tile, t + i + j, y[j]);
}

// A layout of codes in the natural order of columns.
template <class W>
struct Rows {
  template <int R, int T, int P>
  static ONEBIT_INLINE void tile(const Product& p, size_t tile, size_t t, int i) {
    row_tile<W, R, T, P>(p, tile, t, i);
  }
  static constexpr int tiles(int T) { return tiles_of<W>(T); }
};

template <class W>
struct Steps : W {
  struct Scratch {};
  static ONEBIT_INLINE const uint8_t* at(const uint8_t* w, size_t, size_t k, Scratch&) {
    return w + kUnitBytes<W> * (k / W::kColumns);
  }
  template <int R, int T, int P>
  static ONEBIT_INLINE void tile(const Product& p, size_t tile, size_t t, int i) {
    step_tile<Steps, R, T, P>(p, tile, t, i);
  }
  static constexpr int tiles(int) { return 1; }
};

// t1_6 in steps, which are of 32 columns: 160 of them at a time become t2 in the natural order.
// Slow, and rare: few schemes leave the inputs of ternary layers as they are.
struct T1_6Steps : T2 {
  struct Scratch {
    alignas(64) uint8_t t2[640];
  };
  static const uint8_t* at(const uint8_t* w, size_t tile_bytes, size_t k, Scratch& scratch) {
    const size_t within = k % 160, first = k / 160 * 8;
    if (!within) {
      memset(scratch.t2, 0, sizeof scratch.t2);
      for (size_t b = 0; b < 8 && first + b < tile_bytes / 64; ++b)
        for (size_t i = 0; i < 64; ++i) {
          uint32_t rest = w[64 * (first + b) + i];
          for (size_t n = 0; n < 5; ++n, rest &= 255) {
            rest *= 3;
            const size_t c = 5 * (4 * b + i % 4) + n;
            scratch.t2[c / 16 * 64 + i / 4 * 4 + c % 4] |= rest >> 8 << (c % 16 / 4 * 2);
          }
        }
    }
    return scratch.t2 + 64 * (within / 16);
  }
  template <int R, int T, int P>
  static ONEBIT_INLINE void tile(const Product& p, size_t tile, size_t t, int i) {
    step_tile<T1_6Steps, R, T, P>(p, tile, t, i);
  }
  static constexpr int tiles(int) { return 1; }
};

// A panel of P tokens, as many as fit the registers at a time.
template <class Way, int P, int R>
void panel_tile(const Product& p, size_t tile, size_t t) {
  constexpr int T = tokens_at_once(P);
  for (int i = 0; i < P; i += T)
    Way::template tile<R, T, P>(p, tile, t, i);
}

template <class Way, int P>
ONEBIT_INLINE void panel(const Product& p, size_t begin, size_t end, size_t t) {
  constexpr int R = Way::tiles(tokens_at_once(P));
  size_t tile = begin;
  for (; tile + R <= end; tile += R) panel_tile<Way, P, R>(p, tile, t);
  for (; tile < end; ++tile) panel_tile<Way, P, 1>(p, tile, t);
}

// Tiles [begin, end), tokens t .. t_end - 1.
template <class Way>
void panels(const Product& p, size_t begin, size_t end, size_t t, size_t t_end) {
  while (t < t_end) {
    const size_t P = panel_of(t_end - t);
    switch (P) {
      case 12: panel<Way, 12>(p, begin, end, t); break;
      case 8: panel<Way, 8>(p, begin, end, t); break;
      case 6: panel<Way, 6>(p, begin, end, t); break;
      case 4: panel<Way, 4>(p, begin, end, t); break;
      case 3: panel<Way, 3>(p, begin, end, t); break;
      case 2: panel<Way, 2>(p, begin, end, t); break;
      default: panel<Way, 1>(p, begin, end, t); break;
    }
    t += P;
  }
}

// Tokens in blocks whose activations stay in a core's own cache; for each block the weights go by
// once, two tiles at a time.
template <class Way>
void token_blocks(const Product& p, size_t begin, size_t end) {
  const size_t fit = kCacheBytes / p.x_stride / 12 * 12, block = fit ? fit : 12;
  for (size_t t = 0; t < p.tokens; t += block) {
    const size_t t_end = p.tokens - t < block ? p.tokens : t + block;
    for (size_t tile = begin; tile < end; tile += 2)
      panels<Way>(p, tile, end - tile < 2 ? end : tile + 2, t, t_end);
  }
}

template <class W>
void gemv_codes(const Product& p, size_t begin, size_t end) {
  if (p.steps == 1)
    for (size_t tile = begin; tile < end; ++tile) row_tile<W, 1, 1, 1>(p, tile, 0, 0);
  else
    for (size_t tile = begin; tile < end; ++tile) step_tile<Steps<W>, 1, 1, 1>(p, tile, 0, 0);
}

template <class W>
void gemm_codes(const Product& p, size_t begin, size_t end) {
  p.steps == 1 ? token_blocks<Rows<W>>(p, begin, end) : token_blocks<Steps<W>>(p, begin, end);
}

// --- t1_6: decoded to t2, a run of columns at a time, once for many tokens

constexpr size_t kDecodeBytes = kDecodeBlocks * 5 * 64;

// Adds the sums of the decoded columns from `k` on, tokens t .. t + P - 1, to those so far.
template <int P, int R>
void add_panel(const Product& p, const uint8_t* t2, size_t vectors, size_t k, size_t t,
               IntLanes* sums) {
  constexpr int T = tokens_at_once(P);
  const int8_t* x = p.x + t * p.x_stride + k * P;
  for (int i = 0; i < P; i += T) {
    IntLanes u[R][T];
    for (int r = 0; r < R; ++r)
      for (int j = 0; j < T; ++j) u[r][j] = sums[r * kDecodeTokens + i + j];
    T2::template sums<R, T>(t2, kDecodeBytes, x + 4 * i, 4 * P, vectors, u);
    for (int r = 0; r < R; ++r)
      for (int j = 0; j < T; ++j) sums[r * kDecodeTokens + i + j] = u[r][j];
  }
}

template <int R>
void t1_6_tiles(const Product& p, size_t tile, size_t t, size_t t_end) {
  alignas(64) uint8_t t2[R][kDecodeBytes];
  alignas(64) IntLanes sums[R][kDecodeTokens];
  for (int r = 0; r < R; ++r)
    for (size_t i = 0; i < t_end - t; ++i) sums[r][i] = splat(0);
  const size_t blocks = p.tile_bytes / 64 / kBlockVectors;
  // With few tokens memory is the limit: small parts keep it busy while others are multiplied.
  const size_t most = t_end - t > 24 ? kDecodeBlocks : kDecodeBlocks / 4;
  const size_t parts = (blocks + most - 1) / most, part = (blocks + parts - 1) / parts;
  for (size_t b = 0; b < blocks; b += part) {
    const size_t count = blocks - b < part ? blocks - b : part;
    const uint8_t* w = p.w + tile * p.tile_bytes + 64 * kBlockVectors * b;
    for (int r = 0; r < R; ++r) T1_6::decode(w + r * p.tile_bytes, count, t2[r]);
    const size_t vectors = 5 * count, k = kBlockColumns * b;
    const size_t ahead = kBlockVectors * count;  // vectors of the next tiles, to be asked for
    for (size_t i = t; i < t_end;) {
      const size_t P = panel_of(t_end - i);
      for (size_t v = ahead * (i - t) / (t_end - t); v < ahead * (i + P - t) / (t_end - t); ++v)
        for (int r = 0; r < R; ++r)
          __builtin_prefetch(w + (R + r) * p.tile_bytes + 64 * v, 0, 2);
      IntLanes* u = sums[0] + (i - t);
      switch (P) {
        case 12: add_panel<12, R>(p, t2[0], vectors, k, i, u); break;
        case 8: add_panel<8, R>(p, t2[0], vectors, k, i, u); break;
        case 6: add_panel<6, R>(p, t2[0], vectors, k, i, u); break;
        case 4: add_panel<4, R>(p, t2[0], vectors, k, i, u); break;
        case 3: add_panel<3, R>(p, t2[0], vectors, k, i, u); break;
        case 2: add_panel<2, R>(p, t2[0], vectors, k, i, u); break;
        default: add_panel<1, R>(p, t2[0], vectors, k, i, u); break;
      }
      i += P;
    }
  }
  for (size_t i = t; i < t_end; ++i)
    for (int r = 0; r < R; ++r) finish_sums(p, tile + r, i, sums[r][i - t]);
}

void decode_gemm_t1_6(const Product& p, size_t begin, size_t end) {
  // Equal shares, for a small one would decode all weights for few tokens.
  const size_t rounds = (p.tokens + kDecodeTokens - 1) / kDecodeTokens;
  const size_t share = ((p.tokens + rounds - 1) / rounds + 11) / 12 * 12;
  for (size_t t = 0; t < p.tokens; t += share) {
    const size_t t_end = p.tokens - t < share ? p.tokens : t + share;
    size_t tile = begin;
    for (; tile + 2 <= end; tile += 2) t1_6_tiles<2>(p, tile, t, t_end);
    if (tile < end) t1_6_tiles<1>(p, tile, t, t_end);
  }
}

// t1_6 for few tokens, for which decoding apart would take longer than multiplying.
template <class W>
struct DirectRows {
  template <int R, int T, int P>
  static ONEBIT_INLINE void tile(const Product& p, size_t tile, size_t t, int) {
    if constexpr (T == P && T <= 8) {
      IntLanes u[R][T];
      for (int r = 0; r < R; ++r)
        for (int j = 0; j < T; ++j) u[r][j] = splat(0);
      W::template sums<R, T>(p.w + tile * p.tile_bytes, p.tile_bytes, p.x + t * p.x_stride,
                             p.tile_bytes / 64 / kBlockVectors, u);
      for (int r = 0; r < R; ++r)
        for (int j = 0; j < T; ++j) finish_sums(p, tile + r, t + j, u[r][j]);
    }
  }
  static constexpr int tiles(int T) { return tiles_of<W>(T); }
};

template <class W>
void gemm_t1_6(const Product& p, size_t begin, size_t end) {
  if (p.steps > 1) return token_blocks<T1_6Steps>(p, begin, end);
  if constexpr (W::kDirect) {
    if (p.tokens < 12) return token_blocks<DirectRows<W>>(p, begin, end);
  }
  decode_gemm_t1_6(p, begin, end);
}

// --- floats

template <class W, int T>
void float_tile(const Product& p, size_t tile, size_t t0) {
  const auto* w = (const typename W::Stored*)(p.w + tile * p.tile_bytes);
  Lanes y[T];
  dots<W, T>(w, p.x_float + t0 * p.x_stride, p.x_stride, p.columns, y);
  for (int t = 0; t < T; ++t) finish_tile(p, tile, t0 + t, y[t]);
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
          gemm_t1_6<T1_6>,
          gemm_t1_6<T1_6>,
          gemv_codes<B1>,
          gemm_codes<B1>,
          gemv_codes<I4>,
          gemm_codes<I4>,
          gemv_codes<I6>,
          gemm_codes<I6>,
          gemv_codes<I8>,
          gemm_codes<I8>,
          gemv_floats<F32>,
          gemm_floats<F32>,
          gemv_floats<F16>,
          gemm_floats<F16>,
          gemv_floats<BF16>,
          gemm_floats<BF16>,
          absmax,
          absmean,
          quantize,
          quantize_i8_blocks,
          remainder_i8_blocks,
          quantize_positive,
          quantize_fp4,
          quantize_half,
          dequantize,
          sum_by_16,
          t1_6_of_t2,
          rms_norm,
          normalize,
          layer_norm,
          glu_silu,
          glu_relu2,
          glu_gelu_tanh,
          add,
          rope,
          exp_f32,
          hadamard,
          f32_to_f16,
          f16_to_f32,
          quantize_range,
          attend<F32>,
          attend<F16>,
          attend_codes<8>,
          attend_codes<4>,
          attend_codes<3>,
          glu_sigmoid,
          mlgru};
}
