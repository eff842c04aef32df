// The recurrence of an MLGRU layer, h[t] = f[t] * h[t - 1] + i[t] for each channel: a product and a sum, each
// rounded to float32, as torch does it. It is what training and prefill run over many tokens and decoding over
// one. Channels are independent and lie in lanes, so results are the same bits on every instruction set, for
// any number of threads, and wherever a run of tokens is cut.
//
// Shape letters: B sequences, T tokens, d channels. See nn/recurrence.py for torch's forms.
#pragma once
#include <stddef.h>

#include "ops.h"

namespace onebit {

// Rows of floats that are `stride` floats apart.
struct ConstRows {
  const float* data;
  size_t stride;
};
struct Rows {
  float* data;
  size_t stride;
};

// One sequence's run of T >= 1 tokens, on the calling thread. `before` is h before the first token, [d], or
// null for zeros; `last`, [d] or null, takes h after the last token and may be `before`. h may be f or i in
// place. To split the channels over threads, move every pointer by the first channel and take d of them.
void recur(const Ops& ops, size_t T, size_t d, ConstRows f, ConstRows i, const float* before, Rows h,
           float* last);

// The same of B sequences: f, i and h are [B][T][d], before and last [B][d]. One pass over f and i.
void recurrence(const Ops& ops, size_t B, size_t T, size_t d, const float* f, const float* i,
                const float* before, float* h, float* last, size_t threads);

// Its gradients, in one pass over f, h and dh from the last token to the first:
//   di[t] = dh[t] + f[t + 1] * di[t + 1],   df[t] = di[t] * h[t - 1],   dbefore = f[0] * di[0].
// dlast, [B][d] or null for zeros, stands for the product beyond the last token. dh null is zeros;
// dbefore may be null. di may be dh in place.
void recurrence_backward(const Ops& ops, size_t B, size_t T, size_t d, const float* f, const float* h,
                         const float* before, const float* dh, const float* dlast, float* df, float* di,
                         float* dbefore, size_t threads);

}  // namespace onebit
