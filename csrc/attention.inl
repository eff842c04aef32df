// Attention over a cache of floats; the contract is in ops.h. Needs float_ops.inl.
//
// Queries go through the cache kQueries at a time, step by step, and within a step in register
// tiles: kTileQueries queries by kTileVectors vectors of positions (scores) or of dimensions (mixing).

// As many sums as there are registers for: 32 of 64 bytes, 16 of 32, 32 of 16.
constexpr int kTileQueries = ONEBIT_PIECE == 32 ? 3 : 6;
constexpr int kTileVectors = ONEBIT_PIECE == 64 ? 4 : ONEBIT_PIECE == 32 ? 2 : 1;

template <int N>
struct Int {
  static constexpr int value = N;
};

// 2^x for x <= 0, within 2 ulp; 0 below -125.
ONEBIT_INLINE Lanes exp2_below(const Lanes& x) {
  const Lanes rounded = x + splat(kRound);  // the integer part stands in the low bits
  const Lanes r = x - (rounded - splat(kRound));
  Lanes p = splat(0.00015345809515565634f);
  p = fma(p, r, splat(0.0013399930903688073f));
  p = fma(p, r, splat(0.009618489071726799f));
  p = fma(p, r, splat(0.05550328642129898f));
  p = fma(p, r, splat(0.24022646248340607f));
  p = fma(p, r, splat(0.6931471824645996f));
  p = fma(p, r, splat(1.0f));
  return zero_below(float_of_bits(bits_of(p) + (bits_of(rounded) << 23)), x, -125.0f);
}

// What kQueries queries need on their way through the positions.
struct Walk {
  float* q;       // [kQueries][D], D = head_dim rounded up to 16
  float* out;     // [kQueries][D]
  float* p;       // [kQueries][kSpan]: scores, then powers
  float* sum;     // [kQueries][16]: sums of powers, by lanes
  float* top;     // [kQueries]: the largest score so far
  float* shrink;  // [kQueries]: what brings out and sum to it
};

ONEBIT_INLINE Walk walk_in(float* scratch, size_t D) {
  Walk w;
  w.q = scratch;
  w.out = w.q + kQueries * D;
  w.p = w.out + kQueries * D;
  w.sum = w.p + kQueries * kSpan;
  w.top = w.sum + kQueries * 16;
  w.shrink = w.top + kQueries;
  return w;
}

// Asks for part i of the next step's keys or values, as much as is read of this one's meanwhile: the
// CPU's own prefetcher stops at every page of 4 KB, which left a long cache at half of its speed.
template <class KV, int V>
ONEBIT_INLINE void ask_for(const typename KV::Stored* next, size_t i) {
  constexpr size_t kBytes = 16 * V * sizeof(typename KV::Stored);
  const char* part = (const char*)next + i * kBytes;
  for (size_t b = 0; b < kBytes; b += 64) __builtin_prefetch(part + b);
}

// p[r][16 v lanes] = dot(q[r], k) for R queries and V tiles of positions.
template <class KV, int R, int V>
void score_tile(const typename KV::Stored* k, size_t head_dim, const float* q, size_t D, float* p,
                const typename KV::Stored* next) {
  Lanes sum[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) sum[r][v] = splat(0.0f);
  for (size_t d = 0; d < head_dim; ++d) {
    Lanes key[V];
    for (int v = 0; v < V; ++v) key[v] = KV::lanes(k + 16 * (v * head_dim + d));
    ask_for<KV, V>(next, d);
    for (int r = 0; r < R; ++r) {
      const Lanes x = splat(q[r * D + d]);
      for (int v = 0; v < V; ++v) sum[r][v] = fma(key[v], x, sum[r][v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) store(p + r * kSpan + 16 * v, sum[r][v]);
}

// out[r][16 v lanes] = out[r] * shrink[r] + sum over s in begin .. end - 1 of p[r][s] * v[s].
template <class KV, int R, int V>
void mix_tile(const typename KV::Stored* v, size_t v_stride, const float* p, size_t begin,
              size_t end, const float* shrink, float* out, size_t D,
              const typename KV::Stored* next) {
  Lanes sum[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
    for (int i = 0; i < V; ++i) {
      sum[r][i] = load(out + r * D + 16 * i);
      if (shrink) sum[r][i] = sum[r][i] * splat(shrink[r]);
    }
  for (size_t s = begin; s < end; ++s) {
    Lanes value[V];
    for (int i = 0; i < V; ++i) value[i] = KV::lanes(v + s * v_stride + 16 * i);
    ask_for<KV, V>(next, s);
    for (int r = 0; r < R; ++r) {
      const Lanes x = splat(p[r * kSpan + s]);
      for (int i = 0; i < V; ++i) sum[r][i] = fma(value[i], x, sum[r][i]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
    for (int i = 0; i < V; ++i) store(out + r * D + 16 * i, sum[r][i]);
}

// Calls fn with constants R and V for which R == r and V <= v. Returns V.
template <int R, class Fn>
ONEBIT_INLINE size_t with_vectors(size_t v, Fn&& fn) {
  if constexpr (kTileVectors >= 4)
    if (v >= 4) return fn(Int<R>(), Int<4>()), 4;
  if constexpr (kTileVectors >= 2)
    if (v >= 2) return fn(Int<R>(), Int<2>()), 2;
  return fn(Int<R>(), Int<1>()), 1;
}
template <class Fn>
ONEBIT_INLINE size_t with_tile(size_t r, size_t v, Fn&& fn) {
  if constexpr (kTileQueries > 3) {
    if (r == 6) return with_vectors<6>(v, fn);
    if (r == 5) return with_vectors<5>(v, fn);
    if (r == 4) return with_vectors<4>(v, fn);
  }
  if (r == 3) return with_vectors<3>(v, fn);
  if (r == 2) return with_vectors<2>(v, fn);
  return with_vectors<1>(v, fn);
}

// The same for sums in several planes.
template <int Planes, class Fn>
ONEBIT_INLINE size_t with_part_tile(size_t r, size_t v, Fn&& fn) {
  constexpr size_t kMost = kTileVectors > Planes ? kTileVectors / Planes : 1;
  return with_tile(r, v < kMost ? v : kMost, fn);
}

// The queries of a walk, from `start` on: query i is head i % group of token i / group.
struct Queries {
  size_t start, count;
  const Attention* a;

  size_t position(size_t i) const { return a->first + (start + i) / a->group; }
  // Of the positions begin .. begin + kSpan - 1, query i sees those from hidden(i) on, below seen(i).
  size_t seen(size_t i, size_t begin) const {
    const size_t end = position(i) + 1;
    return end <= begin ? 0 : end - begin < kSpan ? end - begin : kSpan;
  }
  size_t hidden(size_t i, size_t begin) const {
    const size_t end = position(i) + 1;
    if (!a->window || end <= begin + a->window) return 0;
    return end - a->window - begin < kSpan ? end - a->window - begin : kSpan;
  }
  // Whether it sees any of them. Later queries see later ones: those that do stand together.
  bool sees(size_t i, size_t begin) const {
    return seen(i, begin) && hidden(i, begin) < kSpan;
  }
  // Of the first step that any of them sees, and behind the last.
  size_t begin() const {
    const size_t end = position(0) + 1;
    return a->window && end > a->window ? (end - a->window) / kSpan * kSpan : 0;
  }
  size_t end() const { return position(count - 1) + 1; }
  size_t at(size_t i) const {
    return (start + i) / a->group * a->stride + (start + i) % a->group * a->head_dim;
  }
};

ONEBIT_INLINE void begin_walk(const Walk& w, const Queries& s, size_t D) {
  const float scale = s.a->scale * 1.44269504f;
  for (size_t i = 0; i < s.count; ++i) {
    const float* q = s.a->q + s.at(i);
    for (size_t d = 0; d < s.a->head_dim; ++d) w.q[i * D + d] = q[d] * scale;
    for (size_t d = 0; d < D; d += 16) store(w.out + i * D + d, splat(0.0f));
    store(w.sum + 16 * i, splat(0.0f));
    w.top[i] = -__builtin_inff();
  }
}

// 0, or NaN where a score of a step is NaN: its power of two comes out as 0, and their sum must not.
ONEBIT_INLINE Lanes score_nan(const Lanes (&score)[kSpan / 16]) {
  return unless_nan(score[0], score[1]) + unless_nan(score[2], score[3]);
}

// Scores of positions hidden .. seen - 1 to powers of two, for one query.
ONEBIT_INLINE void soften(const Walk& w, size_t i, size_t hidden, size_t seen) {
  constexpr int kVectors = kSpan / 16;
  float* p = w.p + i * kSpan;
  Lanes score[kVectors];
  for (int v = 0; v < kVectors; ++v) score[v] = load(p + 16 * v);
  if (seen < kSpan)
    for (int v = 0; v < kVectors; ++v)
      score[v] = first_lanes(score[v], (int32_t)seen - 16 * v, -__builtin_inff());
  if (hidden)
    for (int v = 0; v < kVectors; ++v)
      score[v] = lanes_from(score[v], (int32_t)hidden - 16 * v, -__builtin_inff());
  const float here = max_of(max(max(score[0], score[1]), max(score[2], score[3])));
  const Lanes nan = score_nan(score);
  w.shrink[i] = 1.0f;
  if (here > w.top[i]) {
    float shrink[16];
    store(shrink, exp2_below(splat(w.top[i] - here)));
    w.shrink[i] = shrink[0];
    w.top[i] = here;
  }
  const Lanes top = splat(w.top[i]);
  for (int v = 0; v < kVectors; ++v) {
    score[v] = exp2_below(score[v] - top);
    store(p + 16 * v, score[v]);
  }
  const Lanes sum = ((score[0] + score[1]) + (score[2] + score[3])) + nan;
  store(w.sum + 16 * i, fma(load(w.sum + 16 * i), splat(w.shrink[i]), sum));
}

ONEBIT_INLINE void end_walk(const Walk& w, const Queries& s, size_t D) {
  for (size_t i = 0; i < s.count; ++i) {
    const Lanes factor = splat(1.0f / sum_of(load(w.sum + 16 * i)));
    float* out = s.a->out + s.at(i);
    for (size_t d = 0; d < s.a->head_dim; d += 16) {
      const size_t rest = s.a->head_dim - d;
      const Lanes y = load(w.out + i * D + d) * factor;
      if (rest < 16)
        store_part(out + d, y, rest);
      else
        store(out + d, y);
    }
  }
}

// One step: positions begin .. begin + kSpan - 1, for the queries that see any of them.
template <class KV>
ONEBIT_INLINE void walk_step(const Walk& w, const Queries& s, size_t begin, size_t D) {
  const Attention& a = *s.a;
  const auto* k = (const typename KV::Stored*)a.k + begin * a.head_dim;
  const auto* v = (const typename KV::Stored*)a.v + begin * a.v_stride;
  const auto seen = [&](size_t i) { return s.seen(i, begin); };
  for (size_t i = 0; i < s.count; i += kTileQueries) {
    const size_t r = s.count - i < (size_t)kTileQueries ? s.count - i : kTileQueries;
    const size_t tiles = (seen(i + r - 1) + 15) / 16;
    if (!tiles || s.hidden(i, begin) == kSpan) continue;
    for (size_t t = 0; t < tiles;)
      t += with_tile(r, tiles - t, [&](auto R, auto V) {
        score_tile<KV, R.value, V.value>(k + t * 16 * a.head_dim, a.head_dim, w.q + i * D, D,
                                         w.p + i * kSpan + 16 * t,
                                         k + (kSpan + t * 16) * a.head_dim);
      });
    for (size_t j = i; j < i + r; ++j)
      if (s.sees(j, begin)) soften(w, j, s.hidden(j, begin), seen(j));
  }
  for (size_t i = 0; i < s.count; i += kTileQueries) {
    size_t from = i, last = i + kTileQueries < s.count ? i + kTileQueries : s.count;
    while (from < last && !seen(from)) ++from;  // later queries see more, and
    while (last > from && s.hidden(last - 1, begin) == kSpan) --last;  // less of what was before
    if (from == last) continue;
    const size_t shared = seen(from);
    for (size_t d = 0; d < D;)
      d += 16 * with_tile(last - from, (D - d) / 16, [&](auto R, auto V) {
        mix_tile<KV, R.value, V.value>(v + d, a.v_stride, w.p + from * kSpan, 0, shared,
                                       w.shrink + from, w.out + from * D + d, D,
                                       v + kSpan * (a.v_stride + d));
      });
    for (size_t j = from; j < last; ++j)
      if (seen(j) > shared)
        for (size_t d = 0; d < D;)
          d += 16 * with_tile(1, (D - d) / 16, [&](auto R, auto V) {
            mix_tile<KV, R.value, V.value>(v + d, a.v_stride, w.p + j * kSpan, shared, seen(j),
                                           nullptr, w.out + j * D + d, D, v);
          });
  }
}

template <class KV>
void attend(const Attention& a) {
  const size_t D = (a.head_dim + 15) / 16 * 16, all = a.tokens * a.group;
  const Walk w = walk_in(a.scratch, D);
  for (size_t start = 0; start < all; start += kQueries) {
    const Queries s = {start, all - start < kQueries ? all - start : kQueries, &a};
    begin_walk(w, s, D);
    for (size_t begin = s.begin(); begin < s.end(); begin += kSpan) walk_step<KV>(w, s, begin, D);
    end_walk(w, s, D);
  }
}
