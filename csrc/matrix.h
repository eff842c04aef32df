// Weights in the order that the kernels read them: one sequential stream of 64-byte vectors.
//
// Rows are taken 16 at a time, a tile; within a vector each row has its own four bytes (a lane), so
// a sum never crosses lanes. Byte j of row r in vector b of a tile holds
//
//   t2    code + 1 of column 16 b + 4 m + j in bits 2m and 2m+1, m = 0..3     codes -1..1
//   i4    code - low of column 8 b + 4 m + j in bits 4m..4m+3,  m = 0..1     16 consecutive codes
//   i8    code + 128 of column 4 b + j                                       codes -128..127
//   f32, f16, bf16: 16 rows of one column, column after column
//
// Columns are padded to whole vectors with code bits 0 (activations are 0 there), rows to whole
// tiles. Scales and minima are float32, [tile][group][16 rows].
#pragma once
#include <stdint.h>

#include <string>

#include "buffer.h"
#include "ops.h"

namespace onebit {

enum class Layout { t2, i4, i8, f32, f16, bf16 };

// Of codes: 131071 * 128 * 128 < 2^31, so int32 sums are exact.
constexpr size_t kMaxColumns = 131071;

struct Matrix {
  Layout layout = Layout::f32;
  size_t rows = 0, columns = 0;
  size_t tiles = 0, tile_bytes = 0;
  size_t groups = 1;
  int32_t low = 0;  // code = stored + low
  Buffer<uint8_t> data;
  Buffer<float> scale, minimum;

  bool has_codes() const {
    return layout == Layout::t2 || layout == Layout::i4 || layout == Layout::i8;
  }
  size_t size_bytes() const {
    return data.size_bytes() + scale.size_bytes() + minimum.size_bytes();
  }
  // y[0..K-1] = the weights of one row
  void row(size_t index, float* y) const;
};

const char* name_of(Layout layout);

// Throws std::invalid_argument if a code does not fit the layout, or the groups the kernels.
//   codes [N][K]; scale and minimum [N][groups], minimum may be null
Matrix matrix_of_codes(const std::string& layout, const int8_t* codes, size_t N, size_t K,
                       const float* scale, const float* minimum, size_t groups);

// values [N][K]: float for f32, the 16 bits of each for f16 and bf16
Matrix matrix_of_floats(Layout layout, const void* values, size_t N, size_t K);

}  // namespace onebit
