// columns.cpp over sixteen rows of weights. Needs lanes.inl.

// a * b + c, rounded once.
ONEBIT_INLINE Lanes fma(const Lanes& a, const Lanes& b, const Lanes& c) {
#if ONEBIT_PIECE == 64
  return {{(Piece)_mm512_fmadd_ps((__m512)a.p[0], (__m512)b.p[0], (__m512)c.p[0])}};
#elif ONEBIT_PIECE == 32
  Lanes r;
  for (int i = 0; i < 2; ++i)
    r.p[i] = (Piece)_mm256_fmadd_ps((__m256)a.p[i], (__m256)b.p[i], (__m256)c.p[i]);
  return r;
#else
  float x[16], y[16], z[16];
  store(x, a);
  store(y, b);
  store(z, c);
  for (int i = 0; i < 16; ++i) z[i] = __builtin_fmaf(x[i], y[i], z[i]);
  return load(z);
#endif
}

ONEBIT_INLINE Lanes code_of(const Lanes& x, const Lanes& zero, const ColumnGrid& grid) {
  const Lanes far = splat(1048576.0f);
  const Lanes whole = (max(min(x, far), splat(-1048576.0f)) + splat(kRound)) - splat(kRound);
  return max(min(whole + zero, splat(grid.high)), splat(grid.low));
}

void round_sixteen(const float* w, const float* u, const ColumnGrid& grid, size_t b, size_t N,
                   size_t n, size_t count, float* codes, float* error) {
  Lanes x[kMostColumns];
  for (size_t j = 0; j < b; ++j) x[j] = load_up_to(w + j * N + n, count);
  for (size_t j = 0; j < b; ++j) {
    const size_t at = (size_t)grid.group[j] * N + n;
    const Lanes scale = load_up_to(grid.scale + at, count);
    const Lanes zero = load_up_to(grid.zero + at, count);
    const Lanes code = code_of(x[j] / scale, zero, grid);
    const Lanes missed = (x[j] - (code - zero) * scale) / splat(u[j * b + j]);
    store_up_to(codes + j * N + n, code, count);
    store_up_to(error + j * N + n, missed, count);
    for (size_t i = j + 1; i < b; ++i) x[i] = fma(splat(-u[j * b + i]), missed, x[i]);
  }
}

void sweep_sixteen(float* value, const float* pull, const float* a, const float* inverse_diagonal,
                   const ColumnGrid& grid, size_t b, size_t N, size_t n, size_t count,
                   float* change) {
  Lanes x[kMostColumns];
  for (size_t j = 0; j < b; ++j) x[j] = load_up_to(pull + j * N + n, count);
  for (size_t j = 0; j < b; ++j) {
    const size_t at = (size_t)grid.group[j] * N + n;
    const Lanes scale = load_up_to(grid.scale + at, count);
    const Lanes inverse = load_up_to(grid.inverse + at, count);
    const Lanes zero = load_up_to(grid.zero + at, count);
    const Lanes now = load_up_to(value + j * N + n, count);
    const Lanes code = code_of((now + x[j] * splat(inverse_diagonal[j])) * inverse, zero, grid);
    const Lanes step = (code - zero) * scale - now;
    store_up_to(change + j * N + n, step, count);
    store_up_to(value + j * N + n, now + step, count);
    for (size_t i = j + 1; i < b; ++i) x[i] = fma(splat(-a[i * b + j]), step, x[i]);
  }
}

constexpr ColumnOps kTable = {round_sixteen, sweep_sixteen};
