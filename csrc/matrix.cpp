#include "matrix.h"

#include <string.h>

#include <algorithm>
#include <atomic>
#include <new>
#include <stdexcept>

#include "four_rows.h"
#include "half.h"
#include "parallel.h"

namespace onebit {
namespace {

// Bits of a code; t1_6 has none.
constexpr int bits_of(Layout layout) {
  return layout == Layout::b1 ? 1 : layout == Layout::t2 ? 2 : layout == Layout::i4 ? 4 : 8;
}
size_t bytes_of(Layout layout) { return layout == Layout::f32 ? 4 : 2; }

size_t blocks_of_trits(size_t K) { return (K + 79) / 80; }

// Columns of a row that lie in one vector.
constexpr size_t columns_of_vector(Layout layout) {
  return layout == Layout::t1_6 ? 20 : 4 * (8 / bits_of(layout));
}

size_t tile_bytes_of(Layout layout, size_t K) {
  if (layout == Layout::i6) return 192 * ((K + 15) / 16);
  const size_t columns = columns_of_vector(layout), vectors = (K + columns - 1) / columns;
  return 64 * (layout == Layout::t1_6 ? (vectors + 3) / 4 * 4 : vectors);
}

void check_groups(Layout layout, size_t K, size_t groups) {
  if (K > kMaxColumns)
    throw std::invalid_argument("matrix: " + std::to_string(K) +
                                " columns of codes; at most 131071 keep int32 sums exact.");
  const size_t multiple = layout == Layout::b1 ? 32 : 16;
  const bool whole_rows = layout == Layout::t1_6;
  if (!groups || K % groups || (groups > 1 && (whole_rows || K / groups % multiple)))
    throw std::invalid_argument(
        "matrix: " + std::to_string(groups) + " scale groups in " + std::to_string(K) +
        " columns; in layout " + name_of(layout) + " a group must be a whole row" +
        (whole_rows ? "." : " or a multiple of " + std::to_string(multiple) + "."));
}

// The smallest code of a layout, where it is not the matrix's own.
int32_t low_of(Layout layout, int32_t smallest) {
  if (layout == Layout::i4 || layout == Layout::i6) return smallest;
  return layout == Layout::i8 ? -128 : -1;
}

void check_codes(Layout layout, int32_t low, int smallest, int largest) {
  const int range = layout == Layout::i8   ? 256
                    : layout == Layout::i6 ? 64
                    : layout == Layout::i4 ? 16
                                           : 3;
  if (smallest < low || largest >= low + range)
    throw std::invalid_argument("matrix: codes " + std::to_string(smallest) + " to " +
                                std::to_string(largest) + " do not fit layout " +
                                name_of(layout) + "; it holds " +
                                (range == 3 ? "-1 to 1." : std::to_string(range) + " values."));
}

// Four codes at once: each byte plus `add`, modulo 256.
uint32_t add_bytes(uint32_t codes, uint32_t add) {
  constexpr uint32_t top = 0x80808080;
  return ((codes & ~top) + (add & ~top)) ^ ((codes ^ add) & top);
}

// The lane of row r, its four bytes of every vector, from column k on, where a vector begins.
template <int Bits>
void pack_row_bits(const Matrix& m, const int8_t* codes, uint8_t* tile, size_t r, size_t k) {
  constexpr size_t kCodes = 8 / Bits, kColumns = 4 * kCodes;
  const uint32_t minus_low = 0x01010101u * static_cast<uint8_t>(-m.low);
  for (; k < m.columns; k += kColumns) {
    int8_t part[kColumns];
    const size_t count = std::min(kColumns, m.columns - k);
    if (count < kColumns) memset(part, m.low, kColumns);
    memcpy(part, codes + k, count);
    uint32_t lane = 0;
    for (size_t i = 0; i < kCodes; ++i) {
      uint32_t four;
      memcpy(&four, part + 4 * i, 4);
      lane |= add_bytes(four, minus_low) << (Bits * i);
    }
    memcpy(tile + 64 * (k / kColumns) + 4 * r, &lane, 4);
  }
}

// The lanes of rows r to r + 3, as far as they have 16 columns; returns the column where they end.
template <int Bits>
size_t pack_four_rows(const Matrix& m, const int8_t* codes, uint8_t* tile, size_t r) {
  constexpr int kWords = 8 / Bits;  // of four codes, to a vector: 4, 2 or 1
  const Bytes low = Bytes{} + static_cast<uint8_t>(m.low);
  size_t k = 0;
  for (; k + 16 <= m.columns; k += 16) {
    const Four four = four_of_rows(reinterpret_cast<const uint8_t*>(codes + k), m.columns);
    for (int first = 0; first < 4; first += kWords) {
      Words lanes = {};
      for (int i = 0; i < kWords; ++i)
        lanes |= reinterpret_cast<Words>(reinterpret_cast<Bytes>(four.w[first + i]) - low)
                 << (Bits * i);
      put(tile + 64 * ((k + 4 * first) / (4 * kWords)) + 4 * r, lanes);
    }
  }
  return k;
}

// Bit m of a byte is 1 for the code 1 of column 4 m + j.
void pack_row_b1(const Matrix& m, const int8_t* codes, uint8_t* tile, size_t r) {
  for (size_t k = 0; k < m.columns; k += 32) {
    int8_t part[32];
    const size_t count = std::min<size_t>(32, m.columns - k);
    if (count < 32) memset(part, -1, 32);
    memcpy(part, codes + k, count);
    uint32_t lane = 0;
    for (size_t i = 0; i < 8; ++i) {
      uint32_t four;
      memcpy(&four, part + 4 * i, 4);
      lane |= (~four >> 7 & 0x01010101) << i;  // the sign, turned
    }
    memcpy(tile + 64 * (k / 32) + 4 * r, &lane, 4);
  }
}

// Four bytes of codes 0 to 63 at a time: their halves, and the bit pairs above.
void pack_row_i6(const Matrix& m, const int8_t* codes, uint8_t* tile, size_t r) {
  const uint32_t minus_low = 0x01010101u * static_cast<uint8_t>(-m.low);
  for (size_t k = 0; k < m.columns; k += 16, tile += 192) {
    int8_t part[16];
    const size_t count = std::min<size_t>(16, m.columns - k);
    memset(part, m.low, 16);
    memcpy(part, codes + k, count);
    uint32_t lane[3] = {};
    for (size_t i = 0; i < 4; ++i) {
      uint32_t four;
      memcpy(&four, part + 4 * i, 4);
      four = add_bytes(four, minus_low);
      lane[i / 2] |= (four & 0x0f0f0f0f) << (4 * (i % 2));
      lane[2] |= (four >> 4 & 0x03030303) << (2 * i);
    }
    for (size_t v = 0; v < 3; ++v) memcpy(tile + 64 * v + 4 * r, &lane[v], 4);
  }
}

template <int Bits>
void pack_tile_bits(const Matrix& m, const int8_t* codes, uint8_t* tile, size_t rows) {
  for (size_t r = 0; r < rows; r += 4) {
    const size_t count = std::min<size_t>(4, rows - r);
    const size_t k = count == 4 ? pack_four_rows<Bits>(m, codes + r * m.columns, tile, r) : 0;
    for (size_t i = r; i < r + count; ++i)
      pack_row_bits<Bits>(m, codes + i * m.columns, tile, i, k);
  }
}

void pack_tile(const Matrix& m, const int8_t* codes, uint8_t* tile, size_t rows) {
  switch (m.layout) {
    case Layout::t2: return pack_tile_bits<2>(m, codes, tile, rows);
    case Layout::i4: return pack_tile_bits<4>(m, codes, tile, rows);
    case Layout::i8: return pack_tile_bits<8>(m, codes, tile, rows);
    case Layout::i6:
      for (size_t r = 0; r < rows; ++r) pack_row_i6(m, codes + r * m.columns, tile, r);
      return;
    case Layout::b1:
      for (size_t r = 0; r < rows; ++r) pack_row_b1(m, codes + r * m.columns, tile, r);
      return;
    default: return;  // t1_6, by way of t2
  }
}

void range_of(const int8_t* codes, size_t n, int8_t* smallest, int8_t* largest) {
  int8_t low = codes[0], high = codes[0];
  for (size_t i = 0; i < n; ++i) {
    low = codes[i] < low ? codes[i] : low;
    high = codes[i] > high ? codes[i] : high;
  }
  *smallest = low;
  *largest = high;
}

// values [16][groups] -> [groups][16], of the rows that there are.
void spread(const Matrix& m, size_t tile, const float* values, float* out) {
  const size_t rows = std::min(kTileRows, m.rows - tile * kTileRows);
  out += tile * m.groups * kTileRows;
  for (size_t r = 0; r < rows; ++r)
    for (size_t g = 0; g < m.groups; ++g) out[g * kTileRows + r] = values[r * m.groups + g];
}

template <class T>
void pack_floats(const Matrix& m, const T* values, size_t tile, T* out) {
  const size_t rows = std::min(kTileRows, m.rows - tile * kTileRows);
  for (size_t r = 0; r < rows; ++r) {
    const T* row = values + (tile * kTileRows + r) * m.columns;
    for (size_t k = 0; k < m.columns; ++k) out[kTileRows * k + r] = row[k];
  }
}

}  // namespace

const char* name_of(Layout layout) {
  static const char* const names[] = {"t2", "t1_6", "b1",  "i4",  "i6",
                                      "i8", "f32",  "f16", "bf16"};
  return names[static_cast<int>(layout)];
}

Layout layout_of(const std::string& name) {
  for (Layout layout : {Layout::t2, Layout::t1_6, Layout::b1, Layout::i4, Layout::i6, Layout::i8})
    if (name == name_of(layout)) return layout;
  throw std::invalid_argument("matrix: layout " + name +
                              " is unknown; accepted: t2, t1_6, b1, i4, i6, i8.");
}

Matrix matrix_like(Layout layout, size_t N, size_t K, size_t groups, int32_t low,
                   bool has_minimum, Pages pages) {
  check_groups(layout, K, groups);
  Matrix m;
  m.layout = layout;
  m.low = low_of(layout, low);
  m.rows = N;
  m.columns = K;
  m.groups = groups;
  m.tiles = (N + kTileRows - 1) / kTileRows;
  m.tile_bytes = tile_bytes_of(layout, K);
  m.data = Buffer<uint8_t>(checked_product(m.tiles, m.tile_bytes), pages);
  // Those of several groups soon give way to smaller ones, and would leave holes among huge pages.
  const Pages of_factors = groups > 1 ? Pages::small : pages;
  m.scale.wide = Buffer<float>(m.tiles * groups * kTileRows, of_factors);
  if (has_minimum) m.minimum.wide = Buffer<float>(m.tiles * groups * kTileRows, of_factors);
  return m;
}

void set_tile(Matrix& m, size_t tile, const int8_t* codes, const float* scale,
              const float* minimum) {
  const size_t rows = std::min(kTileRows, m.rows - tile * kTileRows);
  if (m.layout == Layout::t1_6) {
    Buffer<uint8_t> t2 = tile_of_t2(m);
    pack_tile_bits<2>(m, codes, t2.data(), rows);
    set_trits(kScalar, m, tile, t2);
  } else {
    pack_tile(m, codes, m.data.data() + tile * m.tile_bytes, rows);
  }
  set_factors(m, tile, scale, minimum);
}

Buffer<uint8_t> tile_of_t2(const Matrix& m) {
  return Buffer<uint8_t>(blocks_of_trits(m.columns) * 5 * 64);
}

void set_trits(const Ops& ops, Matrix& m, size_t tile, Buffer<uint8_t>& t2) {
  const size_t rows = std::min(kTileRows, m.rows - tile * kTileRows);
  for (size_t k = m.columns; k % 5; ++k)
    for (size_t r = 0; r < rows; ++r) {
      uint8_t* byte = t2.data() + 64 * (k / 16) + 4 * r + k % 4;
      const size_t at = 2 * (k / 4 % 4);
      *byte = static_cast<uint8_t>((*byte & ~(3 << at)) | 1 << at);
    }
  ops.t1_6_of_t2(t2.data(), blocks_of_trits(m.columns), m.data.data() + tile * m.tile_bytes);
}

void set_factors(Matrix& m, size_t tile, const float* scale, const float* minimum) {
  spread(m, tile, scale, m.scale.wide.data());
  if (m.has_minimum()) spread(m, tile, minimum, m.minimum.wide.data());
}

void join_groups(Matrix& m) {
  for (Buffer<float>* factors : {&m.scale.wide, &m.minimum.wide}) {
    if (!factors->size()) continue;
    Buffer<float> first(m.tiles * kTileRows);
    for (size_t tile = 0; tile < m.tiles; ++tile)
      memcpy(first.data() + tile * kTileRows, factors->data() + tile * m.groups * kTileRows,
             kTileRows * sizeof(float));
    *factors = std::move(first);
  }
  m.groups = 1;
}

Matrix matrix_of_codes(const std::string& name, const int8_t* codes, size_t N, size_t K,
                       const float* scale, const float* minimum, size_t groups) {
  const Layout layout = layout_of(name);
  int8_t smallest, largest;
  range_of(codes, N * K, &smallest, &largest);
  Matrix m = matrix_like(layout, N, K, groups, smallest, minimum != nullptr);
  check_codes(layout, m.low, smallest, largest);
  if (layout == Layout::b1 && memchr(codes, 0, N * K))
    throw std::invalid_argument("matrix: a code is 0; layout b1 holds -1 and 1.");
  std::atomic<bool> no_memory{false};
  parallel_for(m.tiles, 16, [&](size_t begin, size_t end) {
    try {
      for (size_t tile = begin; tile < end; ++tile) {
        const size_t n = tile * kTileRows;
        set_tile(m, tile, codes + n * K, scale + n * groups,
                 minimum ? minimum + n * groups : nullptr);
      }
    } catch (const std::bad_alloc&) {
      no_memory.store(true);
    }
  });
  if (no_memory.load()) throw std::bad_alloc();
  shrink_factors(m);
  return m;
}

Matrix matrix_of_floats(Layout layout, const void* values, size_t N, size_t K) {
  Matrix m;
  m.layout = layout;
  m.rows = N;
  m.columns = K;
  m.tiles = (N + kTileRows - 1) / kTileRows;
  m.tile_bytes = checked_product(K, kTileRows * bytes_of(layout));
  m.data = Buffer<uint8_t>(checked_product(m.tiles, m.tile_bytes), Pages::huge);
  parallel_for(m.tiles, 16, [&](size_t begin, size_t end) {
    for (size_t tile = begin; tile < end; ++tile) {
      void* out = m.data.data() + tile * m.tile_bytes;
      if (layout == Layout::f32)
        pack_floats(m, static_cast<const float*>(values), tile, static_cast<float*>(out));
      else
        pack_floats(m, static_cast<const uint16_t*>(values), tile, static_cast<uint16_t*>(out));
    }
  });
  return m;
}

namespace {

// The unsigned code of row r, column k of a tile.
template <Layout layout>
int stored_at(const uint8_t* w, size_t r, size_t k) {
  if constexpr (layout == Layout::i6) {
    const uint8_t* unit = w + 192 * (k / 16);
    const int upper = stored_at<Layout::t2>(unit + 128, r, k % 16);
    return stored_at<Layout::i4>(unit, r, k % 16) | upper << 4;
  }
  constexpr size_t span = columns_of_vector(layout);
  const size_t within = k % span;
  const uint8_t* lane = w + 64 * (k / span) + 4 * r;
  if constexpr (layout == Layout::t1_6) {
    int rest = lane[within / 5] * 3;
    for (size_t n = 0; n < within % 5; ++n) rest = (rest & 255) * 3;
    return rest >> 8;
  }
  constexpr int bits = bits_of(layout);
  const int stored = lane[within % 4] >> (bits * (within / 4)) & ((1 << bits) - 1);
  return layout == Layout::b1 ? 2 * stored : stored;
}

float factor_at(const Matrix& m, const Factors& factors, size_t tile, size_t g, size_t r) {
  const size_t at = (tile * m.groups + g) * kTileRows + r;
  if (m.factor_bytes == 4) return factors.wide.data()[at];
  if (m.factor_bytes == 2)
    return float_of_half(reinterpret_cast<const uint16_t*>(factors.small.data())[at]);
  const float small = reinterpret_cast<const int8_t*>(factors.small.data())[at];
  return small * factors.wide.data()[(tile * m.wide_groups + (g >> m.wide_shift)) * kTileRows + r];
}

template <Layout layout>
void row_of_codes(const Matrix& m, size_t tile, size_t r, float* y) {
  const uint8_t* w = m.data.data() + tile * m.tile_bytes;
  const size_t group = m.columns / m.groups;
  for (size_t g = 0; g < m.groups; ++g) {
    const float scale = factor_at(m, m.scale, tile, g, r);
    for (size_t k = g * group; k < (g + 1) * group; ++k)
      y[k] = static_cast<float>(stored_at<layout>(w, r, k) + m.low) * scale;
    if (!m.has_minimum()) continue;
    const float minimum = factor_at(m, m.minimum, tile, g, r);
    for (size_t k = g * group; k < (g + 1) * group; ++k) y[k] += minimum;
  }
}

template <class T, class Value>
void row_of_floats(const Matrix& m, size_t tile, size_t r, float* y, Value&& value) {
  const T* w = reinterpret_cast<const T*>(m.data.data() + tile * m.tile_bytes) + r;
  for (size_t k = 0; k < m.columns; ++k) y[k] = value(w[kTileRows * k]);
}

}  // namespace

void Matrix::row(size_t index, float* y) const {
  const size_t tile = index / kTileRows, r = index % kTileRows;
  switch (layout) {
    case Layout::t2: return row_of_codes<Layout::t2>(*this, tile, r, y);
    case Layout::t1_6: return row_of_codes<Layout::t1_6>(*this, tile, r, y);
    case Layout::b1: return row_of_codes<Layout::b1>(*this, tile, r, y);
    case Layout::i4: return row_of_codes<Layout::i4>(*this, tile, r, y);
    case Layout::i6: return row_of_codes<Layout::i6>(*this, tile, r, y);
    case Layout::i8: return row_of_codes<Layout::i8>(*this, tile, r, y);
    case Layout::f32:
      return row_of_floats<float>(*this, tile, r, y, [](float x) { return x; });
    case Layout::f16: return row_of_floats<uint16_t>(*this, tile, r, y, float_of_half);
    case Layout::bf16:
      return row_of_floats<uint16_t>(*this, tile, r, y, [](uint16_t x) {
        return float_of_bits(uint32_t{x} << 16);
      });
  }
}

}  // namespace onebit
