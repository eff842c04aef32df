#include "columns.h"

#include <math.h>
#include <string.h>

#include <algorithm>
#include <atomic>

#include "parallel.h"
#include "target.h"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace onebit {
namespace {

// Of rows n .. n + count - 1, sixteen or fewer.
struct ColumnOps {
  void (*round)(const float* w, const float* u, const ColumnGrid& grid, size_t b, size_t N, size_t n,
                size_t count, float* codes, float* error);
  void (*sweep)(float* value, const float* pull, const float* a, const float* inverse_diagonal,
                const ColumnGrid& grid, size_t b, size_t N, size_t n, size_t count, float* change);
};

namespace rows_16 {
#define ONEBIT_PIECE 16
#include "lanes.inl"
ONEBIT_INLINE Lanes fma(const Lanes& a, const Lanes& b, const Lanes& c) {
  float x[16], y[16], z[16];
  store(x, a);
  store(y, b);
  store(z, c);
  for (int i = 0; i < 16; ++i) z[i] = __builtin_fmaf(x[i], y[i], z[i]);
  return load(z);
}
#include "columns.inl"
#undef ONEBIT_PIECE
}  // namespace rows_16

#if defined(__x86_64__)
ONEBIT_TARGET_BEGIN("avx2,fma,f16c")
namespace rows_32 {
#define ONEBIT_PIECE 32
#include "lanes.inl"
ONEBIT_INLINE Lanes fma(const Lanes& a, const Lanes& b, const Lanes& c) {
  Lanes r;
  for (int i = 0; i < 2; ++i)
    r.p[i] = (Piece)_mm256_fmadd_ps((__m256)a.p[i], (__m256)b.p[i], (__m256)c.p[i]);
  return r;
}
#include "columns.inl"
#undef ONEBIT_PIECE
}  // namespace rows_32
ONEBIT_TARGET_END

ONEBIT_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
namespace rows_64 {
#define ONEBIT_PIECE 64
#include "lanes.inl"
ONEBIT_INLINE Lanes fma(const Lanes& a, const Lanes& b, const Lanes& c) {
  return {{(Piece)_mm512_fmadd_ps((__m512)a.p[0], (__m512)b.p[0], (__m512)c.p[0])}};
}
#include "columns.inl"
#undef ONEBIT_PIECE
}  // namespace rows_64
ONEBIT_TARGET_END
#endif

const ColumnOps& columns_of(const Ops& ops) {
#if defined(__x86_64__)
  if (!strncmp(ops.isa, "avx512", 6)) return rows_64::kColumns;
  if (!strncmp(ops.isa, "avx", 3)) return rows_32::kColumns;
#endif
  return rows_16::kColumns;
}

constexpr size_t kRowsAtOnce = 8 * 16;  // that a thread takes

// f(n, count) for sixteen rows after the other.
template <class F>
void each_sixteen(size_t N, size_t threads_wanted, F&& f) {
  const size_t parts = (N + kRowsAtOnce - 1) / kRowsAtOnce;
  const size_t workers = std::max<size_t>(1, std::min({parts, threads_wanted, threads()}));
  std::atomic<size_t> next{0};
  parallel_for(workers, 1, [&](size_t begin, size_t end) {
    for (size_t worker = begin; worker < end; ++worker)
      for (size_t part; (part = next.fetch_add(1)) < parts;) {
        const size_t last = std::min((part + 1) * kRowsAtOnce, N);
        for (size_t n = part * kRowsAtOnce; n < last; n += 16)
          f(n, std::min<size_t>(16, last - n));
      }
  });
}

}  // namespace

void round_columns(const Ops& ops, const float* w, const float* u, const ColumnGrid& grid, size_t b,
                   size_t N, float* codes, float* error, size_t threads_wanted) {
  const ColumnOps& columns = columns_of(ops);
  each_sixteen(N, threads_wanted, [&](size_t n, size_t count) {
    columns.round(w, u, grid, b, N, n, count, codes, error);
  });
}

void sweep_columns(const Ops& ops, float* value, const float* pull, const float* a,
                   const float* inverse_diagonal, const ColumnGrid& grid, size_t b, size_t N,
                   float* change, size_t threads_wanted) {
  const ColumnOps& columns = columns_of(ops);
  each_sixteen(N, threads_wanted, [&](size_t n, size_t count) {
    columns.sweep(value, pull, a, inverse_diagonal, grid, b, N, n, count, change);
  });
}

}  // namespace onebit
