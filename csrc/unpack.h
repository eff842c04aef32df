// From the bytes of a file to the layouts of matrix.h: tile by tile, in parallel, without an int8
// copy of the matrix. The formats are those of onebit/pack (docs/formats), whose NumPy code is the
// readable reference: codes and factors are the same, and the same bytes are refused.
#pragma once
#include "matrix.h"
#include "unpack_rows.h"

namespace onebit {

// Fills `matrix`, in the narrowest layout that holds the codes. Scales of a row count as one where
// they are equal in every row.
// Zero-points go off the codes where that takes no more bytes than a minimum, which then must be
// there too and equal to -zero * scale.
//   ternary  the layout of codes -1, 0 and 1: t2, or t1_6, which is t2 all the same where a row
//            has several scales
// False if the bytes are damaged. Throws std::invalid_argument if the groups do not fit the kernels.
bool matrix_of_stored(const Ops& ops, const Stored& stored, Layout ternary, Matrix* matrix);

}  // namespace onebit
