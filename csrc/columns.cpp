#include "columns.h"

#include <math.h>
#include <string.h>

#include "each_block.h"
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

#define ONEBIT_BODY "columns.inl"
#include "widths.inl"

constexpr size_t kRowsAtOnce = 8 * 16;  // that a thread takes

}  // namespace

void round_columns(const Ops& ops, const float* w, const float* u, const ColumnGrid& grid, size_t b,
                   size_t N, float* codes, float* error, size_t threads_wanted) {
  const ColumnOps& columns = table_of(ops);
  each_sixteen(N, kRowsAtOnce, threads_wanted, [&](size_t n, size_t count) {
    columns.round(w, u, grid, b, N, n, count, codes, error);
  });
}

void sweep_columns(const Ops& ops, float* value, const float* pull, const float* a,
                   const float* inverse_diagonal, const ColumnGrid& grid, size_t b, size_t N,
                   float* change, size_t threads_wanted) {
  const ColumnOps& columns = table_of(ops);
  each_sixteen(N, kRowsAtOnce, threads_wanted, [&](size_t n, size_t count) {
    columns.sweep(value, pull, a, inverse_diagonal, grid, b, N, n, count, change);
  });
}

}  // namespace onebit
