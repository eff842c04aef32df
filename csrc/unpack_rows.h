// Rows of stored bytes to codes and factors, one function for each format of onebit/pack.
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace onebit {

struct Stored;

// One way to lay codes out as bytes. A function that returns false has met bytes that mean nothing.
struct StoredFormat {
  const char* name;
  size_t columns;      // K is a multiple of this
  size_t block_bytes;  // of a block of `columns`, where rows are whole blocks, else 0
  size_t groups;       // scales of a block; 0 where the scale stands elsewhere
  bool has_minimum;
  int least, greatest;  // codes
  bool zero;            // whether 0 is one of them
  size_t (*size_bytes)(size_t N, size_t K);

  // codes [K] of row n
  bool (*codes)(const Stored& s, size_t n, int8_t* codes);
  // scale and minimum [groups of a row] of row n
  bool (*factors)(const Stored& s, size_t n, float* scale, float* minimum);
};

// A matrix as a file holds it. Whoever makes one has checked the shape, and size_bytes against it.
struct Stored {
  const StoredFormat* format = nullptr;
  const uint8_t* data = nullptr;
  size_t rows = 0, columns = 0;
  const float* scale = nullptr;  // [rows][scale_groups], for formats whose scale is stored apart
  size_t scale_groups = 0;
  const float* minimum = nullptr;  // of the scale's shape, or null
  // Of the scale's shape, or null: taken off the codes, which then stand for themselves. They are
  // between `least` and `greatest`.
  const int8_t* zero = nullptr;
  int least = 0, greatest = 0;  // of all codes that `codes` gives

  bool codes(size_t n, int8_t* codes) const;  // [K] of row n; false if the bytes mean nothing
  bool has_minimum() const { return format->has_minimum || minimum; }
  size_t row_blocks() const { return columns / format->columns; }
  const uint8_t* blocks(size_t n) const { return data + n * row_blocks() * format->block_bytes; }
  size_t groups() const {  // of a row
    return scale ? scale_groups : format->groups ? row_blocks() * format->groups : 1;
  }
};

// `factors` of the formats whose scale is stored apart.
bool factors_apart(const Stored& s, size_t n, float* scale, float* minimum);

// Null if no format has this name.
const StoredFormat* find_stored_format(const char* name);

}  // namespace onebit
