// Weights rounded to ggml's block formats, with factors found by search: the numbers of quant/search.py
// and quant/k_factors.py in torch, bit for bit. There is the maths and its reasons; here it runs on
// sixteen groups at a time, one in each lane.
//
// Float operations are never fused and sums have one order, by_fours of search.py, so that
// results depend neither on the instruction set nor on the number of threads.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "ops.h"

namespace onebit {

struct BlockFormat {
  enum class Kind { nearest, symmetric, with_minimum, k_quant, ternary };
  const char* name;
  Kind kind;
  size_t group;        // columns that share a scale
  float low, high;     // codes
  float least, most;   // of k-quants: what multiples of a block's float16 a scale may be
  bool has_minimum;

  size_t block() const { return kind == Kind::k_quant ? 256 : group; }
};

// The format of that name, or null.
const BlockFormat* block_format(const char* name);

// Writes codes [N][K], scale and, where the format has one, minimum [N][K / group]. h is the importance
// of columns [K], above 0, or null: all alike. Weights are finite; K is a multiple of the block.
void round_to_blocks(const Ops& ops, const BlockFormat& format, const float* w, const float* h,
                     size_t N, size_t K, int8_t* codes, float* scale, float* minimum,
                     size_t threads);

}  // namespace onebit
