// Sixteen rows of stored bytes straight into a tile of the kernels, where that is shorter than
// through int8 codes: bits only change places.
#pragma once
#include "matrix.h"
#include "unpack_rows.h"

namespace onebit {

// Writes the tile of rows n to n + 15, all of which exist. False where bytes mean nothing, or hold
// a code that the layout does not.
using TileFn = bool (*)(const Stored& s, size_t n, uint8_t* tile);

// The way into a layout, or null where there is none for this format and width.
TileFn ternary_way(const Stored& s, Layout layout);              // t2 and t1_6
TileFn wide_way(const Stored& s, Layout layout, int32_t low);    // i4, i6, i8

}  // namespace onebit
