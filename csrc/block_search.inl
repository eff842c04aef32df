// block_search.cpp over sixteen lanes, a group in each. Needs lanes.inl. See quant/search.py and
// quant/k_factors.py for what is computed and why; names are the same.

#define ONEBIT_EACH for (int i = 0; i < kPieces; ++i)

ONEBIT_INLINE Lanes operator-(const Lanes& a) { return splat(-0.0f) - a; }
ONEBIT_INLINE IntLanes less(const Lanes& a, const Lanes& b) {
  IntLanes r;
  ONEBIT_EACH r.p[i] = a.p[i] < b.p[i];
  return r;
}
ONEBIT_INLINE Lanes choose(const IntLanes& mask, const Lanes& a, const Lanes& b) {
  Lanes r;
  ONEBIT_EACH r.p[i] = mask.p[i] ? a.p[i] : b.p[i];
  return r;
}
ONEBIT_INLINE IntLanes finite(const Lanes& a) {
  IntLanes r;
  const IntLanes size = size_bits(a);
  ONEBIT_EACH r.p[i] = size.p[i] < 0x7f800000;
  return r;
}
// a / b, and 0 where that is no finite number.
ONEBIT_INLINE Lanes over(const Lanes& a, const Lanes& b) {
  const Lanes quotient = a / b;
  return choose(finite(quotient), quotient, splat(0.0f));
}
// Within the integers low..high, the nearest, ties to even.
ONEBIT_INLINE Lanes rounded(const Lanes& a, const Lanes& low, const Lanes& high) {
  return (max(min(a, high), low) + splat(kRound)) - splat(kRound);
}

// The float16 nearest to a, ties to even; infinite beyond 65519.
ONEBIT_INLINE Lanes half_value(const Lanes& a) {
  Lanes r;
  const IntLanes bits = bits_of(a), size = size_bits(a);
  ONEBIT_EACH {
    const IntPiece sign = bits.p[i] & (int32_t)0x80000000;
    const IntPiece whole = (size.p[i] + 0xfff + (size.p[i] >> 13 & 1)) & ~0x1fff;
    const IntPiece fits = size.p[i] >= 0x477ff000 ? IntPiece{} + 0x7f800000 : whole;
    const Piece small = ((Piece)size.p[i] + 0.5f) - 0.5f;  // below 2^-14: multiples of 2^-24
    const IntPiece value = size.p[i] < 0x38800000 ? (IntPiece)small : fits;
    r.p[i] = (Piece)((size.p[i] > 0x7f800000 ? size.p[i] : value) | sign);
  }
  return r;
}
// The float16 after a, which is one, away from 0 of its sign.
ONEBIT_INLINE Lanes next_half(const Lanes& a) {
  Lanes r;
  const IntLanes bits = bits_of(a), size = size_bits(a);
  ONEBIT_EACH {
    const IntPiece sign = bits.p[i] & (int32_t)0x80000000;
    const IntPiece small = (IntPiece)((Piece)size.p[i] + 0x1p-24f);
    const IntPiece large = size.p[i] >= 0x477fe000 ? IntPiece{} + 0x7f800000 : size.p[i] + 0x2000;
    r.p[i] = (Piece)((size.p[i] < 0x38800000 ? small : large) | sign);
  }
  return r;
}

// Sixteen rows of sixteen, transposed in place: in turn each bit of row and lane changes places.
template <int H>
ONEBIT_INLINE void transpose_step(Lanes (&x)[16]) {
  static const int32_t kLane[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const IntLanes upper = load(kLane) & splat(H);
  ONEBIT_UNROLL for (int r = 0; r < 16; ++r) if (!(r & H)) {
    const Lanes a = x[r], b = x[r | H];
    x[r] = choose(upper, swap_lanes<H>(b), a);
    x[r | H] = choose(upper, b, swap_lanes<H>(a));
  }
}
ONEBIT_INLINE void transpose(Lanes (&x)[16]) {
  transpose_step<8>(x);
  transpose_step<4>(x);
  transpose_step<2>(x);
  transpose_step<1>(x);
}

// n sums at once.
template <int n>
struct Sums {
  Lanes s[n];
};
template <int n>
ONEBIT_INLINE Sums<n> operator+(const Sums<n>& a, const Sums<n>& b) {
  Sums<n> r;
  ONEBIT_UNROLL for (int j = 0; j < n; ++j) r.s[j] = a.s[j] + b.s[j];
  return r;
}

// f(0) + ... + f(n - 1): each fourth in turn, then these four sums by halves.
template <class Sum, int n, class F>
ONEBIT_INLINE Sum by_fours(const F& f) {
  Sum a{}, b{}, c{}, d{};
  _Pragma("GCC unroll 1") for (int i = 0; i < n; i += 4) {
    a = a + f(i);
    b = b + f(i + 1);
    c = c + f(i + 2);
    d = d + f(i + 3);
  }
  return (a + c) + (b + d);
}

#define ONEBIT_LEAF __attribute__((always_inline))

// Sixteen groups of k weights: row i holds weight i of each.
template <int k, bool weighted>
struct Strip {
  alignas(64) float w_[k * 16], h_[weighted ? k * 16 : 1], hw_[weighted ? k * 16 : 1];
  alignas(64) float codes_[k * 16];  // of the last try

  ONEBIT_INLINE Lanes w(int i) const { return load(w_ + 16 * i); }
  ONEBIT_INLINE Lanes h(int i) const { return load(h_ + 16 * i); }
  ONEBIT_INLINE Lanes hw(int i) const { return weighted ? load(hw_ + 16 * i) : w(i); }
  // x times the importance
  ONEBIT_INLINE Lanes weigh(const Lanes& x, int i) const {
    if constexpr (weighted) return x * h(i);
    return x;
  }
  ONEBIT_INLINE Lanes sum_h() const {
    if constexpr (weighted) return by_fours<Lanes, k>([&](int i) ONEBIT_LEAF { return h(i); });
    return splat((float)k);
  }

  // Lanes from `count` on hold zeros, of importance 1.
  void fill(const Groups& groups, size_t first, size_t count) {
    for (int part = 0; part < k; part += 16) {
      Lanes x[16];
      for (size_t g = 0; g < 16; ++g)
        x[g] = g < count ? load(groups.w + (first + g) * k + part) : splat(0.0f);
      transpose(x);
      for (int i = 0; i < 16; ++i) store(w_ + 16 * (part + i), x[i]);
      if constexpr (weighted) {
        for (size_t g = 0; g < 16; ++g)
          x[g] = g < count ? load(groups.h + (first + g) * k % groups.columns + part) : splat(1.0f);
        transpose(x);
        for (int i = 0; i < 16; ++i) store(h_ + 16 * (part + i), x[i]);
      }
    }
    if constexpr (weighted)
      for (int i = 0; i < k; ++i) store(hw_ + 16 * i, w(i) * h(i));
  }
};

template <int k, bool weighted>
ONEBIT_INLINE Lanes scales(const Strip<k, weighted>& x, const Tries& tries, float least, float most) {
  Lanes top = x.w(0), size = abs(top);
  for (int i = 1; i < k; ++i) {
    const Lanes w = x.w(i), a = abs(w);
    top = choose(less(size, a), w, top);
    size = max(a, size);
  }
  const Lanes low = splat(least), high = splat(most), one = splat(1.0f);
  Lanes best = splat(0.0f), gain = splat(0.0f);
  for (int t = 0; t <= tries.count; ++t) {
    const Lanes inverse = t < tries.count ? over(splat(tries.at[t]), top) : over(one, best);
    const Sums<2> sums = by_fours<Sums<2>, k>([&](int i) ONEBIT_LEAF {
      const Lanes code = rounded(x.w(i) * inverse, low, high);
      return Sums<2>{{x.hw(i) * code, x.weigh(code * code, i)}};
    });
    const Lanes scale = over(sums.s[0], sums.s[1]), gained = sums.s[0] * scale;
    const IntLanes better = less(gain, gained);
    gain = choose(better, gained, gain);
    best = choose(better, scale, best);
  }
  return best;
}

struct Line {
  Lanes scale, minimum;
};

template <int k, bool weighted, bool with_zero>
ONEBIT_INLINE Line scales_and_minima(Strip<k, weighted>& x, const Tries& tries, float most) {
  Lanes low = x.w(0), high = low;
  for (int i = 1; i < k; ++i) low = min(x.w(i), low), high = max(x.w(i), high);
  const Lanes zero = splat(0.0f), one = splat(1.0f), last = splat(most);
  if (with_zero) low = min(low, zero);
  const Lanes h = x.sum_h(), w = by_fours<Lanes, k>([&](int i) ONEBIT_LEAF { return x.hw(i); });
  const Lanes mean = w / h, span = high - low;
  Lanes error = splat(__builtin_inff()), scale = zero, minimum = low;
  for (int t = 0; t <= tries.count; ++t) {
    const Lanes inverse = t < tries.count ? over(splat(tries.at[t]), span) : over(one, scale);
    const Lanes start = t < tries.count ? low : minimum;
    const Sums<3> sums = by_fours<Sums<3>, k>([&](int i) ONEBIT_LEAF {
      const Lanes code = rounded((x.w(i) - start) * inverse, zero, last);
      store(x.codes_ + 16 * i, code);
      const Lanes hq = x.weigh(code, i);
      return Sums<3>{{hq, hq * code, x.hw(i) * code}};
    });
    const Lanes q = sums.s[0], qq = sums.s[1], wq = sums.s[2];
    const Lanes spread = h * qq - q * q;
    Lanes slope = over(h * wq - w * q, spread);
    Lanes offset = choose(less(zero, spread), over(qq * w - q * wq, spread), mean);
    offset = choose(finite(offset), offset, zero);
    if (with_zero) {
      slope = choose(less(zero, offset), over(wq, qq), slope);
      offset = min(offset, zero);
    }
    const Lanes left = by_fours<Lanes, k>([&](int i) ONEBIT_LEAF {
      const Lanes miss = x.w(i) - load(x.codes_ + 16 * i) * slope - offset;
      return x.weigh(miss * miss, i);
    });
    IntLanes better;
    ONEBIT_EACH better.p[i] = (left.p[i] < error.p[i]) & (slope.p[i] >= 0.0f);
    error = choose(better, left, error);
    scale = choose(better, slope, scale);
    minimum = choose(better, offset, minimum);
  }
  return {scale, minimum};
}

// Over the groups of a block, which stand in 16 lanes, or in 8 and the next block's in the others.
template <int groups, class F>
ONEBIT_INLINE Lanes across(Lanes a, const F& f) {
  if constexpr (groups == 16) a = f(a, swap_lanes<8>(a));
  a = f(a, swap_lanes<4>(a));
  a = f(a, swap_lanes<2>(a));
  return f(a, swap_lanes<1>(a));
}
template <int groups>
ONEBIT_INLINE Lanes total(const Lanes& a) {
  return across<groups>(a, [](const Lanes& x, const Lanes& y) ONEBIT_LEAF { return x + y; });
}
template <int groups>
ONEBIT_INLINE Lanes greatest(const Lanes& a) {
  return across<groups>(a, [](const Lanes& x, const Lanes& y) ONEBIT_LEAF { return max(x, y); });
}
// Of the first group whose magnitude is the largest.
template <int groups>
ONEBIT_INLINE Lanes largest(const Lanes& a) {
  float x[16], top[16];
  store(x, a);
  for (int first = 0; first < 16; first += groups) {
    int best = first;
    for (int g = first + 1; g < first + groups; ++g)
      if (__builtin_fabsf(x[g]) > __builtin_fabsf(x[best])) best = g;
    for (int g = first; g < first + groups; ++g) top[g] = x[best];
  }
  return load(top);
}

// The float16 nearest to a, or the next where the largest value would be cut off.
ONEBIT_INLINE Lanes half_for(const Lanes& a, const Lanes& top, float multiple) {
  const Lanes half = half_value(a);
  return choose(less(splat(multiple + 0.5f) * abs(half), top), next_half(half), half);
}

template <int k, bool weighted, bool has_minimum>
ONEBIT_INLINE Line fit_blocks(Strip<k, weighted>& x, const BlockFormat& format, const Tries& tries) {
  constexpr int groups = 256 / k, kRounds = 4;
  const Lanes zero = splat(0.0f), one = splat(1.0f), two = splat(2.0f);
  const Lanes low = splat(format.low), high = splat(format.high);
  const Lanes least = splat(format.least), most = splat(format.most);
  const float end = format.least < 0 ? format.least : format.most, inward = end < 0 ? 1.0f : -1.0f;
  const int starts = __builtin_fabsf(end) < 33 ? 3 : 1;

  Line found{zero, zero};
  if constexpr (has_minimum)
    found = scales_and_minima<k, weighted, true>(x, tries, format.high);
  else
    found.scale = scales(x, tries, format.low, format.high);
  const Lanes lowest = has_minimum ? -found.minimum : zero;
  const Lanes top = largest<groups>(found.scale), top_low = greatest<groups>(lowest);
  const Lanes h_all = x.sum_h(), w_all = by_fours<Lanes, k>([&](int i) ONEBIT_LEAF { return x.hw(i); });

  Line best{zero, zero};
  Lanes least_error = splat(__builtin_inff());
  for (int start = 0; start < starts; ++start) {
    const float multiple = end + (float)start * inward, size = __builtin_fabsf(multiple);
    Lanes d = half_for(top / splat(multiple), abs(top), size);
    Lanes dmin = has_minimum ? half_for(top_low / splat(size), top_low, size) : zero;
    Lanes s = rounded(over(found.scale, d), least, most);
    Lanes m = has_minimum ? rounded(over(lowest, dmin), zero, most) : zero;
    for (int turn = 0; turn <= kRounds; ++turn) {
      const Lanes scale = d * s, minimum = has_minimum ? -(dmin * m) : zero;
      const Lanes inverse = over(one, scale);
      const Sums<4> sums = by_fours<Sums<4>, k>([&](int i) ONEBIT_LEAF {
        const Lanes w = x.w(i);
        const Lanes from = has_minimum ? w - minimum : w;
        const Lanes code = rounded(from * inverse, low, high);
        const Lanes value = has_minimum ? code * scale + minimum : code * scale;
        const Lanes miss = value - w, hq = x.weigh(code, i);
        return Sums<4>{{x.weigh(miss * miss, i), hq, hq * code, hq * w}};
      });
      const Lanes error = total<groups>(sums.s[0]);
      if (start + turn == 0) {
        best = {scale, minimum};
        least_error = error;
      } else {
        const IntLanes better = less(error, least_error);
        least_error = choose(better, error, least_error);
        best = {choose(better, scale, best.scale), choose(better, minimum, best.minimum)};
      }
      if (turn == kRounds) break;

      const Lanes q = sums.s[1], qq = sums.s[2], wq = sums.s[3];
      const auto lost = [&](const Lanes& a, const Lanes& b) ONEBIT_LEAF {
        return a * (a * qq - two * wq - two * b * q) + b * (two * w_all + b * h_all);
      };
      const Lanes far = splat(1048576.0f);
      const Lanes middle = rounded(over(wq + dmin * m * q, qq * d), zero - far, far);
      Lanes loss = lost(d * s, dmin * m);
      for (int step = -1; step <= 1; ++step) {
        const Lanes try_s = max(min(middle + splat((float)step), most), least);
        Lanes try_m = zero;
        if constexpr (has_minimum)
          try_m = rounded(over(d * try_s * q - w_all, h_all * dmin), zero, most);
        const Lanes try_loss = lost(d * try_s, dmin * try_m);
        const IntLanes better = less(try_loss, loss);
        loss = choose(better, try_loss, loss);
        s = choose(better, try_s, s);
        m = choose(better, try_m, m);
      }
      const Lanes ss = total<groups>(s * s * qq), sw = total<groups>(s * wq);
      Lanes new_d = over(sw, ss);
      if constexpr (has_minimum) {
        const Lanes sm = total<groups>(s * m * q), mm = total<groups>(m * m * h_all);
        const Lanes mw = total<groups>(m * w_all), spread = ss * mm - sm * sm;
        new_d = choose(less(zero, spread), over(sw * mm - sm * mw, spread), new_d);
        const Lanes new_dmin = over(sm * sw - ss * mw, spread);
        const IntLanes good = less(zero, new_d) & less(zero, new_dmin);
        new_d = choose(good, new_d, over(sw + dmin * sm, ss));
        const Lanes half = half_value(choose(good, new_dmin, dmin));
        dmin = choose(finite(half), half, dmin);
      }
      const Lanes half = half_value(new_d);
      d = choose(less(zero, abs(half)) & finite(half), half, d);
    }
  }
  return best;
}

// The nearest codes of a group.
ONEBIT_INLINE void write_codes(const float* w, size_t k, float scale, float minimum, float low,
                               float high, int8_t* codes) {
  const float quotient = 1.0f / scale;
  const Lanes inverse = splat(__builtin_isfinite(quotient) ? quotient : 0.0f);
  for (size_t i = 0; i < k; i += 16)
    store_i8(codes + i, round_within((load(w + i) - splat(minimum)) * inverse, low, high));
}

ONEBIT_INLINE void write(const BlockFormat& format, const Groups& groups, size_t first,
                         size_t count, const Line& line) {
  float scale[16], minimum[16];
  store(scale, line.scale);
  store(minimum, line.minimum);
  memcpy(groups.scale + first, scale, count * sizeof *scale);
  if (format.has_minimum) memcpy(groups.minimum + first, minimum, count * sizeof *minimum);
  for (size_t g = 0; g < count; ++g)
    write_codes(groups.w + (first + g) * format.group, format.group, scale[g], minimum[g],
                format.low, format.high, groups.codes + (first + g) * format.group);
}

template <int k, bool weighted>
void fit_searched(const BlockFormat& format, const Tries& tries, const Groups& groups, size_t first,
                  size_t count) {
  Strip<k, weighted> x;
  x.fill(groups, first, count);
  Line line{splat(0.0f), splat(0.0f)};
  if (format.kind == Kind::k_quant) {
    // q6_k and q3_k have groups of 16 and no minimum, q2_k a minimum; q5_k and q4_k groups of 32
    if constexpr (k == 16)
      line = format.has_minimum ? fit_blocks<k, weighted, true>(x, format, tries)
                                : fit_blocks<k, weighted, false>(x, format, tries);
    else
      line = fit_blocks<k, weighted, true>(x, format, tries);
  } else if constexpr (k == 32) {
    if (format.kind == Kind::symmetric) {
      line.scale = half_value(scales(x, tries, format.low, format.high));
    } else {
      const Line found = scales_and_minima<k, weighted, false>(x, tries, format.high);
      line = {half_value(found.scale), half_value(found.minimum)};
    }
  }
  write(format, groups, first, count, line);
}

// Q8_0: see quant/blockwise.py.
void fit_nearest(const BlockFormat& format, const Groups& groups, size_t first, size_t count) {
  const Lanes zero = splat(0.0f);
  for (size_t g = first; g < first + count; ++g) {
    const float* w = groups.w + g * 32;
    const float d = max_of(max(abs(load(w)), abs(load(w + 16)))) / format.high;
    const Lanes inverse = splat(d >= 0x1p-126f ? 1.0f / d : 0.0f);
    for (size_t i = 0; i < 32; i += 16) {
      const Lanes x = load(w + i) * inverse;
      IntLanes code;
      ONEBIT_EACH {
        code.p[i] = __builtin_convertvector(x.p[i], IntPiece);
        const Piece rest = x.p[i] - __builtin_convertvector(code.p[i], Piece);
        // a comparison that holds is -1
        code.p[i] += (rest <= zero.p[i] - 0.5f) - (rest >= zero.p[i] + 0.5f);
      }
      store_i8(groups.codes + g * 32 + i, code);
    }
    float half[16];
    store(half, half_value(splat(d)));
    groups.scale[g] = half[0];
  }
}

// Rows of sizes, and what belongs to each, sorted in every lane by falling size: bitonic merges.
template <bool weighted>
ONEBIT_INLINE void order(Lanes& a, Lanes& b, Lanes& ha, Lanes& hb) {
  const Lanes upper = max(a, b), lower = min(a, b);
  if constexpr (weighted) {
    const IntLanes turned = less(a, b);
    const Lanes of_a = ha;
    ha = choose(turned, hb, ha);
    hb = choose(turned, of_a, hb);
  }
  a = upper;
  b = lower;
}
// Each row with the one whose number differs in the bits of `flip`, of sixteen rows.
template <bool weighted, int flip>
ONEBIT_INLINE void order_sixteen(Lanes (&x)[16], Lanes (&h)[16]) {
  ONEBIT_UNROLL for (int i = 0; i < 16; ++i) if (i < (i ^ flip))
    order<weighted>(x[i], x[i ^ flip], h[i], h[i ^ flip]);
}
template <bool weighted>
ONEBIT_INLINE void merge_sixteen(Lanes (&x)[16], Lanes (&h)[16]) {
  order_sixteen<weighted, 8>(x, h);
  order_sixteen<weighted, 4>(x, h);
  order_sixteen<weighted, 2>(x, h);
  order_sixteen<weighted, 1>(x, h);
}
template <bool weighted>
ONEBIT_INLINE void sort_sixteen(Lanes (&x)[16], Lanes (&h)[16]) {
  order_sixteen<weighted, 1>(x, h);
  order_sixteen<weighted, 3>(x, h);
  order_sixteen<weighted, 1>(x, h);
  order_sixteen<weighted, 7>(x, h);
  order_sixteen<weighted, 2>(x, h);
  order_sixteen<weighted, 1>(x, h);
  order_sixteen<weighted, 15>(x, h);
  order_sixteen<weighted, 4>(x, h);
  order_sixteen<weighted, 2>(x, h);
  order_sixteen<weighted, 1>(x, h);
}
template <bool weighted>
void sort_rows(float* size, float* of_size, int rows) {
  const auto sixteen = [&](int first, bool whole) ONEBIT_LEAF {
    Lanes x[16], h[16];
    for (int i = 0; i < 16; ++i) {
      x[i] = load(size + 16 * (first + i));
      h[i] = weighted ? load(of_size + 16 * (first + i)) : x[i];
    }
    if (whole)
      sort_sixteen<weighted>(x, h);
    else
      merge_sixteen<weighted>(x, h);
    for (int i = 0; i < 16; ++i) {
      store(size + 16 * (first + i), x[i]);
      if constexpr (weighted) store(of_size + 16 * (first + i), h[i]);
    }
  };
  const auto pair = [&](int i, int j) ONEBIT_LEAF {
    Lanes a = load(size + 16 * i), b = load(size + 16 * j), ha = a, hb = b;
    if constexpr (weighted) ha = load(of_size + 16 * i), hb = load(of_size + 16 * j);
    order<weighted>(a, b, ha, hb);
    store(size + 16 * i, a);
    store(size + 16 * j, b);
    if constexpr (weighted) store(of_size + 16 * i, ha), store(of_size + 16 * j, hb);
  };
  for (int first = 0; first < rows; first += 16) sixteen(first, true);
  for (int width = 32; width <= rows; width *= 2) {
    for (int flip = width - 1; flip >= 16; flip = flip == width - 1 ? width / 4 : flip / 2)
      for (int i = 0; i < rows; ++i)
        if (i < (i ^ flip)) pair(i, i ^ flip);
    for (int first = 0; first < rows; first += 16) sixteen(first, false);
  }
}

// For s the nearest trits keep the weights above s / 2, and the error falls by (sum of h |w|)^2 / (sum
// of h) over those kept: so they are sorted, and every number of them is tried.
template <bool weighted>
void fit_ternary(const BlockFormat& format, const Groups& groups, size_t first, size_t count) {
  constexpr int k = 256;
  Strip<k, weighted> x;
  x.fill(groups, first, count);
  float *size = x.w_, *h = x.h_;
  for (int i = 0; i < k; ++i) store(size + 16 * i, abs(load(size + 16 * i)));
  sort_rows<weighted>(size, h, k);
  double sum[16] = {}, kept[16] = {}, gain[16], best_sum[16], best_kept[16];
  for (int lane = 0; lane < 16; ++lane) gain[lane] = -1.0;
  for (int i = 0; i < k; ++i)
    for (int lane = 0; lane < 16; ++lane) {
      const double w = size[16 * i + lane], weight = weighted ? (double)h[16 * i + lane] : 1.0;
      sum[lane] += weighted ? weight * w : w;
      kept[lane] += weight;
      const double gained = sum[lane] * sum[lane] / kept[lane];
      const bool better = gained > gain[lane];
      gain[lane] = better ? gained : gain[lane];
      best_sum[lane] = better ? sum[lane] : best_sum[lane];
      best_kept[lane] = better ? kept[lane] : best_kept[lane];
    }
  float scale[16];
  for (int lane = 0; lane < 16; ++lane) scale[lane] = (float)(best_sum[lane] / best_kept[lane]);
  write(format, groups, first, count, {half_value(load(scale)), splat(0.0f)});
}

void fit(const BlockFormat& format, const Tries& tries, const Groups& groups, size_t first,
         size_t count) {
  if (format.kind == Kind::nearest) return fit_nearest(format, groups, first, count);
  if (format.kind == Kind::ternary)
    return (groups.h ? fit_ternary<true> : fit_ternary<false>)(format, groups, first, count);
  if (format.group == 16)
    return (groups.h ? fit_searched<16, true> : fit_searched<16, false>)(format, tries, groups,
                                                                         first, count);
  return (groups.h ? fit_searched<32, true> : fit_searched<32, false>)(format, tries, groups, first,
                                                                       count);
}

constexpr SearchOps kTable = {fit};

#undef ONEBIT_LEAF
#undef ONEBIT_EACH
