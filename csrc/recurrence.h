// The recurrence of an MLGRU layer, h[t] = f[t] * h[t - 1] + i[t] for each channel: a product and a sum, each
// rounded to float32, as torch does it. Training runs it; the engine's layers have it in one pass with their
// gates (mlgru in ops.h). Channels are independent and lie in lanes, so results are the same bits on every
// instruction set and for any number of threads, and wherever a run of tokens is cut.
//
// Shape letters: B sequences, T tokens, d channels. See nn/recurrence.py for torch's forms.
#pragma once
#include <stddef.h>

#include "ops.h"

namespace onebit {

// f, i and h are [B][T][d], of T >= 1 tokens. `before` is h before the first token, [B][d], or null for
// zeros; `last`, [B][d] or null, takes h after the last token and may be `before`. h may be f or i in place.
// One pass over f and i.
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
