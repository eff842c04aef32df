// Columns of weights rounded one after the other, what each misses passed on to others: the loops
// inside the blocks of GPTQ (ptq/gptq.py) and of a descent's sweep (quant/descent.py), for sixteen
// rows at a time. Numbers are those of torch, where addr_ fuses its multiply-add; rows are
// independent, so they are the same for any number of threads.
//
// Columns come as rows in memory: [b][N], b columns of N rows of weights.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "ops.h"

namespace onebit {

// Values (code - zero) * scale for whole codes within low..high; column j has those of group[j].
struct ColumnGrid {
  const float* scale;    // [G][N]
  const float* inverse;  // [G][N]; of sweeps
  const float* zero;     // [G][N]
  const int32_t* group;  // [b]
  float low, high;
};

// For j in turn: code = round(w[j] / scale) + zero within the ends, error = (w[j] - value) / u[j][j], and
// w[i] -= u[j][i] * error for i > j. u is [b][b]; codes and error are written.
void round_columns(const Ops& ops, const float* w, const float* u, const ColumnGrid& grid, size_t b,
                   size_t N, float* codes, float* error, size_t threads);

// For j in turn: the value nearest to value[j] + pull[j] * inverse_diagonal[j] by the grid's `inverse`;
// change[j] = that - value[j], value[j] += change[j], and pull[i] -= a[i][j] * change[j] for i > j.
void sweep_columns(const Ops& ops, float* value, const float* pull, const float* a,
                   const float* inverse_diagonal, const ColumnGrid& grid, size_t b, size_t N,
                   float* change, size_t threads);

constexpr size_t kMostColumns = 256;  // of a block

}  // namespace onebit
