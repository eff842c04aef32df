// Weights in the order that the kernels read them: one sequential stream of 64-byte vectors.
//
// Rows are taken 16 at a time, a tile; within a vector each row has its own four bytes (a lane), so
// a sum never crosses lanes. Byte j of row r in vector b of a tile holds
//
//   t2    code + 1 of column 16 b + 4 m + j in bits 2m and 2m+1, m = 0..3     codes -1..1
//   t1_6  the five codes of columns 20 b + 5 j .. 20 b + 5 j + 4, as byte 4 b + j of a row has them
//         in the format of that name (docs/formats/t1_6.md)                   codes -1..1
//   b1    whether the code of column 32 b + 4 m + j is 1, in bit m, m = 0..7  codes -1 and 1
//   i4    code - low of column 8 b + 4 m + j in bits 4m..4m+3,  m = 0..1     16 consecutive codes
//   i6    units of 16 columns and 3 vectors: the low four bits of code - low of the unit's columns
//         in two vectors, as in i4, then the upper two bits, as in t2        64 consecutive codes
//   i8    code + 128 of column 4 b + j                                       codes -128..127
//   f32, f16, bf16: 16 rows of one column, column after column
//
// Columns are padded to whole vectors with code bits 0 (activations are 0 there), t1_6 to whole
// blocks of 4 vectors; rows to whole tiles. Scales and minima stand apart: see Factors.
//
// A byte of t1_6 has one code in each of five vectors of codes, so its products want the columns of
// the activations in another order. A block has 80 columns. Vector i of it, decoded, is a vector of
// t2 without the first codes of its bytes, and those of the four vectors make a fifth. So
// place 16 i + 4 m + j has column 20 i + 5 j + m + 1, and place 64 + 4 i + j column 20 i + 5 j.
#pragma once
#include <stdint.h>

#include <memory>
#include <string>
#include <vector>

#include "buffer.h"
#include "ops.h"

namespace onebit {

enum class Layout { t2, t1_6, b1, i4, i6, i8, f32, f16, bf16 };

// Of codes: 131071 * 128 * 128 < 2^31, so int32 sums are exact.
constexpr size_t kMaxColumns = 131071;

// Scales or minima. Those of small groups weigh as much as some bits of each code, so they are kept
// in fewer bytes where these stand for the same floats, bit for bit:
//   4  float32 [tile][group][16 rows], in `wide`; always, for whole rows
//   2  float16 [tile][group][16], in `small`
//   1  int8 [tile][group][16], in `small`, times float32 [tile][256 columns][16], in `wide`
struct Factors {
  Buffer<float> wide;
  Buffer<uint8_t> small;

  size_t size_bytes() const { return wide.size_bytes() + small.size_bytes(); }
};

struct RowSums {
  size_t parts = 1;
  std::vector<float> values;  // [parts][rows]
};

struct Matrix {
  Layout layout = Layout::f32;
  size_t rows = 0, columns = 0;
  size_t tiles = 0, tile_bytes = 0;
  size_t groups = 1;
  int32_t low = 0;  // code = stored + low
  Buffer<uint8_t> data;
  Factors scale, minimum;   // minimum is empty for zero
  size_t factor_bytes = 4;  // of both
  size_t wide_groups = 0;   // with 1 byte: a row's float32 factors, each for 2^wide_shift groups
  size_t wide_shift = 0;
  mutable std::shared_ptr<const RowSums> sums_of_rows;  // once wanted; read and set atomically

  bool has_codes() const {
    return layout != Layout::f32 && layout != Layout::f16 && layout != Layout::bf16;
  }
  size_t size_bytes() const {
    return data.size_bytes() + scale.size_bytes() + minimum.size_bytes();
  }
  bool has_minimum() const { return minimum.size_bytes() != 0; }
  // y[0..K-1] = the weights of one row
  void row(size_t index, float* y) const;
};

const char* name_of(Layout layout);

// Throws std::invalid_argument for a name that is none of these.
Layout layout_of(const std::string& name);

// A matrix of codes that holds nothing yet: all stored bits 0, scales and minima 0.
// Throws std::invalid_argument if K or the groups do not fit the kernels: at most kMaxColumns; a
// group is a whole row, or a multiple of 16 columns (b1: 32; t1_6: whole rows only).
//   low   for i4 and i6, the smallest code (code = stored + low); other layouts have their own
Matrix matrix_like(Layout layout, size_t N, size_t K, size_t groups, int32_t low,
                   bool has_minimum, Pages pages = Pages::huge);

// Fills a tile of 16 rows. Different tiles may be filled by different threads at once. Codes must
// fit the layout; rows beyond N are not read.
//   codes [16][K]; scale and minimum [16][groups], minimum null where the matrix has none
void set_tile(Matrix& m, size_t tile, const int8_t* codes, const float* scale,
              const float* minimum);

// For who fills a tile of t1_6 by way of t2: room for the tile of t2, in whole blocks of t1_6, zeros
// at first; and the way on. What of the last byte of a row no column fills becomes code 0.
Buffer<uint8_t> tile_of_t2(const Matrix& m);
void set_trits(const Ops& ops, Matrix& m, size_t tile, Buffer<uint8_t>& t2);

// The factors alone, for who fills the codes of the tile by a shorter way.
void set_factors(Matrix& m, size_t tile, const float* scale, const float* minimum);

// Makes one group of a row's groups, whose factors are equal in every row.
void join_groups(Matrix& m);

// Keeps the factors of a filled matrix in the fewest bytes that hold them exactly.
void shrink_factors(Matrix& m);

// Throws std::invalid_argument if a code does not fit the layout, or the groups the kernels.
//   codes [N][K]; scale and minimum [N][groups], minimum may be null
Matrix matrix_of_codes(const std::string& layout, const int8_t* codes, size_t N, size_t K,
                       const float* scale, const float* minimum, size_t groups);

// values [N][K]: float for f32, the 16 bits of each for f16 and bf16
Matrix matrix_of_floats(Layout layout, const void* values, size_t N, size_t K);

}  // namespace onebit
