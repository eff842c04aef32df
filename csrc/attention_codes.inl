// Attention over a cache of codes (kv_codes.h), on the codes. Needs attention.inl and hadamard.inl.
//
// Per query: q, turned as the keys were, becomes int8 codes; a score is
//   float(sum of q code * k code) * (q scale * k scale) + k minimum * (q scale * sum of q codes).
// Per query and step, e = 2^(score - the step's largest) times the scale of each value becomes codes
// too, of 15 bits in two planes or 7 in one;
//   out += float(sum of e code * v code) * e scale;  low += sum of e * v middle - (sum of e code) *
//   e scale * levels / 2: values around the middle of their range, where rounding e costs least.
// Integer sums are exact. Position 0 is float all through.

// What a second plane buys, and what one for q would, is in docs/log.md.
constexpr int planes_of(int bits) { return bits == 8 ? 2 : 1; }

void quantize_range(const float* x, size_t n, int levels, uint8_t* codes, uint16_t* scale,
                    uint16_t* minimum) {
  Lanes low = splat(65504.0f), high = splat(-65504.0f);
  IntLanes largest = splat((int32_t)0);
  for (size_t i = 0; i < n; i += 16) {
    const size_t count = n - i < 16 ? n - i : 16;
    low = min(count == 16 ? load(x + i) : load_part(x + i, count, 65504.0f), low);
    high = max(count == 16 ? load(x + i) : load_part(x + i, count, -65504.0f), high);
    largest = max(size_bits(load_up_to(x + i, count)), largest);
  }
  low = max(low, splat(-65504.0f));
  high = min(high, splat(65504.0f));
  const float bottom = -max_of(splat(0.0f) - low), top = max_of(high);
  const float size = largest_of(largest), nan = size == size ? 0.0f : size;
  float both[16] = {(top - bottom) / (float)levels + nan, bottom};
  uint16_t halfs[16];
  store_f16(halfs, load(both));
  *scale = halfs[0];
  *minimum = halfs[1];
  store(both, load_f16(halfs));
  const float factor = both[0] > 0.0f ? 1.0f / both[0] : 0.0f;
  for (size_t i = 0; i < n; i += 16) {
    const size_t count = n - i < 16 ? n - i : 16;
    const Lanes from = count == 16 ? load(x + i) : load_part(x + i, count, 0.0f);
    const Lanes v = (from - splat(both[1])) * splat(factor);
    int32_t part[16];
    store(part, round_to_int(max(min(v, splat((float)levels)), splat(0.0f))));
    for (size_t j = 0; j < count; ++j) codes[i + j] = (uint8_t)part[j];
  }
}

// The codes of a unit, [4 vectors][16 lanes][4 bytes].
template <int Bits>
ONEBIT_INLINE void unpack_unit(const uint8_t* codes, size_t unit, uint8_t* y) {
  if constexpr (Bits == 4) {
    for (int b = 0; b < 2; ++b) {
      const IntLanes v = load((const int32_t*)(codes + 128 * unit + 64 * b));
      store((int32_t*)(y + 128 * b), v & splat((int32_t)0x0f0f0f0f));
      store((int32_t*)(y + 128 * b + 64), (v >> 4) & splat((int32_t)0x0f0f0f0f));
    }
  } else {
    const uint8_t* pair = codes + 192 * (unit / 2);
    const IntLanes low = load((const int32_t*)(pair + 64 * (unit % 2)));
    const IntLanes third = load((const int32_t*)(pair + 128)) >> (int)(4 * (unit % 2));
    for (int m = 0; m < 4; ++m) {
      const IntLanes bit = (third >> m) & splat((int32_t)0x01010101);
      store((int32_t*)(y + 64 * m), ((low >> 2 * m) & splat((int32_t)0x03030303)) | (bit << 2));
    }
  }
}

struct CodeWalk {
  Walk w;
  int8_t* q;        // tiles of kTileQueries queries, [D / 4][kTileQueries][4] each
  int8_t* p;        // [kQueries][planes][kSpan]
  float* low;       // [kQueries][16]: what all dimensions of out have in common, by lanes
  float* q_scale;   // [kQueries]
  float* q_sum;     // [kQueries]: q scale * sum of q codes
  float* p_scale;   // [kQueries]
  float* first;     // [kQueries]: the score of position 0
  float* k_scale;   // [kSpan] each, of a step's positions
  float* k_low;
  float* v_scale;
  float* v_middle;
  float* v_steps;   // v_scale in steps of a p code, for queries that see the whole step
  float* row;       // [D]
  uint8_t* codes;   // [kSpan / 16][16 * D]: those of a step
};

ONEBIT_INLINE CodeWalk code_walk_in(float* scratch, size_t D) {
  CodeWalk c;
  c.w = walk_in(scratch, D);
  float* next = c.w.shrink + kQueries;
  const auto take = [&next](size_t n) { return (next += n) - n; };
  c.q = (int8_t*)take(kQueries * D / 4);
  c.p = (int8_t*)take(kQueries * kSpan / 2);
  c.low = take(kQueries * 16);
  c.q_scale = take(kQueries);
  c.q_sum = take(kQueries);
  c.p_scale = take(kQueries);
  c.first = take(kQueries);
  c.k_scale = take(kSpan);
  c.k_low = take(kSpan);
  c.v_scale = take(kSpan);
  c.v_middle = take(kSpan);
  c.v_steps = take(kSpan);
  c.row = take(D);
  c.codes = (uint8_t*)take(kSpan * D / 4);
  return c;
}

// Half the largest code.
template <int Bits>
constexpr float kHalf = (float)((1 << Bits) - 1) / 2;

// Values as codes of `planes` signed bytes: value * factor, within 127 or 127 * 2^shift, rounded.
template <int Planes>
struct Bytes {
  static constexpr int kShift = 8;
  static constexpr float kSteps = Planes == 2 ? 127.0f * (1 << kShift) : 127.0f;
  static ONEBIT_INLINE IntLanes high(const IntLanes& code) {
    return (code + splat((int32_t)1 << (kShift - 1))) >> kShift;
  }
  static ONEBIT_INLINE IntLanes low(const IntLanes& code, const IntLanes& high) {
    return code - (high << kShift);
  }
};

ONEBIT_INLINE void begin_code_walk(const CodeWalk& c, const Queries& s, size_t D) {
  const Attention& a = *s.a;
  const float scale = a.scale * 1.44269504f;
  for (size_t i = 0; i < s.count; ++i) {
    float* q = c.row;
    for (size_t d = 0; d < D; ++d) q[d] = d < a.head_dim ? a.q[s.at(i) + d] * scale : 0.0f;
    hadamard(*a.turn, q);
    Lanes sum = splat(0.0f);
    for (size_t d = 0; d < D; d += 16) sum = fma(load(q + d), load_f16(a.first_k + d), sum);
    c.first[i] = sum_of(sum);
    const float largest = absmax(q, D);
    const float factor = largest > 1e-30f ? 127.0f / largest : 0.0f;
    c.q_scale[i] = largest / 127.0f;
    constexpr size_t kColumn = kTileQueries * 4;
    int8_t* to = c.q + i / kTileQueries * (D / 4) * kColumn + i % kTileQueries * 4;
    IntLanes total = splat((int32_t)0);
    for (size_t d = 0; d < D; d += 16, to += 4 * kColumn) {
      const IntLanes code = round_within(load(q + d) * splat(factor), -127.0f, 127.0f);
      total = total + code;
      int8_t bytes[16];
      store_i8(bytes, code);
      for (int j = 0; j < 4; ++j) memcpy(to + j * kColumn, bytes + 4 * j, 4);
    }
    int32_t part[16], all = 0;
    store(part, total);
    for (int j = 0; j < 16; ++j) all += part[j];
    c.q_sum[i] = c.q_scale[i] * (float)all;
    for (size_t d = 0; d < D; d += 16) store(c.w.out + i * D + d, splat(0.0f));
    store(c.w.sum + 16 * i, splat(0.0f));
    store(c.low + 16 * i, splat(0.0f));
    c.w.top[i] = -__builtin_inff();
  }
}

ONEBIT_INLINE IntLanes four_of(const int8_t* x) {
  int32_t v;
  memcpy(&v, x, 4);
  return splat(v);
}

// p[r][16 v lanes] = the scores of R queries and V tiles of positions.
template <int R, int V>
void code_score_tile(const uint8_t* codes, size_t stride, size_t D, const int8_t* q,
                     const float* q_scale, const float* q_sum, const float* k_scale,
                     const float* k_low, float* p) {
  IntLanes sum[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) sum[r][v] = splat((int32_t)0);
  for (size_t d = 0; d < D / 4; ++d) {
    IntLanes key[V];
    for (int v = 0; v < V; ++v) key[v] = load((const int32_t*)(codes + v * stride + 64 * d));
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const IntLanes x = four_of(q + (d * kTileQueries + r) * 4);
      for (int v = 0; v < V; ++v) sum[r][v] = dot4(sum[r][v], key[v], x);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v)
      store(p + r * kSpan + 16 * v,
            fma(to_float(sum[r][v]), load(k_scale + 16 * v) * splat(q_scale[r]),
                load(k_low + 16 * v) * splat(q_sum[r])));
}

// steps[s] = v_scale[s] * (kSteps / the largest v_scale of positions hidden .. seen - 1); returns that
// largest. So e * steps[s] is within kSteps.
template <int Planes>
ONEBIT_INLINE float value_steps(const float* v_scale, size_t hidden, size_t seen, float* steps) {
  Lanes largest = splat(0.0f);
  for (int v = 0; v < (int)kSpan / 16; ++v) {
    const Lanes scale = first_lanes(load(v_scale + 16 * v), (int32_t)seen - 16 * v, 0.0f);
    largest = max(lanes_from(scale, (int32_t)hidden - 16 * v, 0.0f), largest);
  }
  const float top = max_of(largest), factor = top > 0.0f ? Bytes<Planes>::kSteps / top : 0.0f;
  for (size_t s = 0; s < kSpan; s += 16) store(steps + s, load(v_scale + s) * splat(factor));
  return top;
}

// Scores of positions hidden .. seen - 1 to codes; returns e of position 0 of the step. v_largest: of
// a whole step.
template <int Bits, int Planes>
ONEBIT_INLINE float encode(const CodeWalk& c, size_t i, size_t hidden, size_t seen,
                           float v_largest) {
  using P = Bytes<Planes>;
  constexpr int kVectors = kSpan / 16;
  Lanes score[kVectors];
  for (int v = 0; v < kVectors; ++v) score[v] = load(c.w.p + i * kSpan + 16 * v);
  float own[kSpan];
  const float* v_steps = c.v_steps;
  if (hidden || seen < kSpan) {
    for (int v = 0; v < kVectors; ++v) {
      score[v] = first_lanes(score[v], (int32_t)seen - 16 * v, -__builtin_inff());
      score[v] = lanes_from(score[v], (int32_t)hidden - 16 * v, -__builtin_inff());
    }
    v_largest = value_steps<Planes>(c.v_scale, hidden, seen, own);
    v_steps = own;
  }
  const float here = max_of(max(max(score[0], score[1]), max(score[2], score[3])));
  const bool more = here > c.w.top[i];
  const float ratio = exp2_below(splat(more ? c.w.top[i] - here : here - c.w.top[i])).p[0][0];
  const float weight = more ? 1.0f : ratio;
  c.w.shrink[i] = more ? ratio : 1.0f;
  c.w.top[i] = more ? here : c.w.top[i];
  c.p_scale[i] = weight * (v_largest / P::kSteps);

  Lanes low = splat(0.0f), sum = score_nan(score);
  IntLanes codes = splat((int32_t)0);
  float first = 0.0f;
  int8_t* to = c.p + i * Planes * kSpan;
  for (int v = 0; v < kVectors; ++v) {
    const Lanes e = exp2_below(score[v] - splat(here));
    if (!v) first = e.p[0][0];
    sum = sum + e;
    low = fma(e, load(c.v_middle + 16 * v), low);
    const IntLanes code = round_to_int(e * load(v_steps + 16 * v));
    codes = codes + code;
    if (Planes == 2) {
      const IntLanes high = P::high(code);
      store_i8(to + 16 * v, high);
      store_i8(to + kSpan + 16 * v, P::low(code, high));
    } else {
      store_i8(to + 16 * v, code);
    }
  }
  const Lanes w = splat(weight), shrink = splat(c.w.shrink[i]);
  store(c.w.sum + 16 * i, fma(load(c.w.sum + 16 * i), shrink, sum * w));
  low = fma(to_float(codes), splat(c.p_scale[i] * -kHalf<Bits>), low * w);
  store(c.low + 16 * i, fma(load(c.low + 16 * i), shrink, low));
  return first;
}

// out[r][16 v lanes] = out[r] * shrink[r] + the values of `tiles` tiles, weighted by p[r].
template <int Planes, int R, int V>
void code_mix_tile(const uint8_t* codes, size_t stride, size_t tiles, const int8_t* p,
                   const float* shrink, const float* p_scale, float* out, size_t D) {
  IntLanes sum[R][V][Planes];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v)
      for (int plane = 0; plane < Planes; ++plane) sum[r][v][plane] = splat((int32_t)0);
  for (size_t t = 0; t < tiles; ++t)
    for (int m = 0; m < 4; ++m) {
      IntLanes value[V];
      for (int v = 0; v < V; ++v)
        value[v] = load((const int32_t*)(codes + t * stride + 256 * v + 64 * m));
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
        for (int plane = 0; plane < Planes; ++plane) {
          const IntLanes x = four_of(p + (r * Planes + plane) * kSpan + 16 * t + 4 * m);
          for (int v = 0; v < V; ++v) sum[r][v][plane] = dot4(sum[r][v][plane], value[v], x);
        }
    }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) {
      float* at = out + r * D + 16 * v;
      IntLanes all = sum[r][v][0];
      if constexpr (Planes == 2) all = (all << Bytes<2>::kShift) + sum[r][v][1];
      store(at, fma(to_float(all), splat(p_scale[r]), load(at) * splat(shrink[r])));
    }
}

// The codes of a step as bytes, `*stride` apart from tile to tile.
template <int Bits>
ONEBIT_INLINE const uint8_t* step_codes(const CodeWalk& c, const uint8_t* tiles, size_t tile_bytes,
                                        size_t count, size_t D) {
  if (Bits == 8) return tiles;
  for (size_t t = 0; t < count; ++t)
    for (size_t u = 0; u < D / 16; ++u)
      unpack_unit<Bits>(tiles + t * tile_bytes, u, c.codes + t * 16 * D + 256 * u);
  return c.codes;
}

// Scales, minima and middles of a step's positions; returns the largest scale of a value. Position 0 has no
// share in the values' codes.
template <int Bits, int Planes>
ONEBIT_INLINE float step_scales(const CodeWalk& c, const uint8_t* k, const uint8_t* v,
                                size_t tile_bytes, size_t tiles, bool has_first) {
  for (size_t t = 0; t < kSpan / 16; ++t) {
    Lanes values[4] = {splat(0.0f), splat(0.0f), splat(0.0f), splat(0.0f)};
    if (t < tiles)
      for (int i = 0; i < 4; ++i)
        values[i] = load_f16((const uint16_t*)((i < 2 ? k : v) + (t + 1) * tile_bytes - 64) +
                             16 * (i % 2));
    store(c.k_scale + 16 * t, values[0]);
    store(c.k_low + 16 * t, values[1]);
    store(c.v_scale + 16 * t, values[2]);
    store(c.v_middle + 16 * t, fma(values[2], splat(kHalf<Bits>), values[3]));
  }
  if (has_first) c.v_scale[0] = c.v_middle[0] = 0.0f;
  return value_steps<Planes>(c.v_scale, 0, kSpan, c.v_steps);
}

template <int Bits>
ONEBIT_INLINE void code_walk_step(const CodeWalk& c, const Queries& s, size_t begin, size_t D) {
  constexpr int kP = planes_of(Bits);
  const Attention& a = *s.a;
  const size_t stride = Bits == 8 ? a.tile_bytes : 16 * D;
  const auto* k = (const uint8_t*)a.k + begin / 16 * a.tile_bytes;
  const auto* v = (const uint8_t*)a.v + begin / 16 * a.tile_bytes;
  const auto seen = [&](size_t i) { return s.seen(i, begin); };
  const size_t used = (seen(s.count - 1) + 15) / 16;
  size_t start = 0;
  while (!seen(start)) ++start;
  start = start / kTileQueries * kTileQueries;
  size_t last = s.count;  // behind the last query for which not all of them are hidden
  while (s.hidden(last - 1, begin) == kSpan) --last;

  const float v_largest = step_scales<Bits, kP>(c, k, v, a.tile_bytes, used, !begin);
  const uint8_t* codes = step_codes<Bits>(c, k, a.tile_bytes, used, D);
  for (size_t i = start; i < last; i += kTileQueries) {
    const size_t r = s.count - i < (size_t)kTileQueries ? s.count - i : kTileQueries;
    const size_t tiles = (seen(i + r - 1) + 15) / 16;
    for (size_t t = 0; t < tiles;)
      t += with_tile(r, tiles - t, [&](auto R, auto V) {
        code_score_tile<R.value, V.value>(codes + t * stride, stride, D, c.q + i * D, c.q_scale + i,
                                          c.q_sum + i, c.k_scale + 16 * t, c.k_low + 16 * t,
                                          c.w.p + i * kSpan + 16 * t);
      });
    for (size_t j = i; j < i + r; ++j) {
      if (!s.sees(j, begin)) {
        memset(c.p + j * kP * kSpan, 0, kP * kSpan);
        c.w.shrink[j] = 1.0f;
        c.p_scale[j] = 0.0f;
        continue;
      }
      if (!begin) c.w.p[j * kSpan] = c.first[j];
      const float first = encode<Bits, kP>(c, j, s.hidden(j, begin), seen(j), v_largest);
      if (begin) continue;
      c.w.shrink[j] = 1.0f;
      for (size_t d = 0; d < D; d += 16)
        store(c.w.out + j * D + d, splat(first) * load_f16(a.first_v + d));
    }
  }

  codes = step_codes<Bits>(c, v, a.tile_bytes, used, D);
  for (size_t i = start; i < last; i += kTileQueries) {
    const size_t r = s.count - i < (size_t)kTileQueries ? s.count - i : kTileQueries;
    const size_t tiles = (seen(i + r - 1) + 15) / 16;
    for (size_t u = 0; u < D / 16;)
      u += with_part_tile<kP>(r, D / 16 - u, [&](auto R, auto V) {
        code_mix_tile<kP, R.value, V.value>(
            codes + 256 * u, stride, tiles, c.p + i * kP * kSpan, c.w.shrink + i,
            c.p_scale + i, c.w.out + i * D + 16 * u, D);
      });
  }
}

template <int Bits>
void attend_codes(const Attention& a) {
  const size_t all = a.tokens * a.group;
  const size_t D = Bits == 3 ? (a.head_dim + 31) / 32 * 32 : (a.head_dim + 15) / 16 * 16;
  const CodeWalk c = code_walk_in(a.scratch, D);
  for (size_t start = 0; start < all; start += kQueries) {
    const Queries s = {start, all - start < kQueries ? all - start : kQueries, &a};
    begin_code_walk(c, s, D);
    for (size_t begin = s.begin(); begin < s.end(); begin += kSpan)
      code_walk_step<Bits>(c, s, begin, D);
    for (size_t i = 0; i < s.count; ++i) {
      const Lanes low = splat(sum_of(load(c.low + 16 * i)));
      for (size_t d = 0; d < D; d += 16)
        store(c.w.out + i * D + d, load(c.w.out + i * D + d) + low);
    }
    end_walk(c.w, s, D);
  }
}
