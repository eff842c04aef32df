#include "matrix.h"

#include <string.h>

#include <algorithm>
#include <stdexcept>

#include "half.h"
#include "parallel.h"

namespace onebit {
namespace {

int bits_of(Layout layout) { return layout == Layout::t2 ? 2 : layout == Layout::i4 ? 4 : 8; }
size_t bytes_of(Layout layout) { return layout == Layout::f32 ? 4 : 2; }

// Codes of a row that lie in one vector: 16, 8 or 4.
size_t columns_of_vector(Layout layout) { return 4 * (8 / bits_of(layout)); }

void check_groups(size_t K, size_t groups) {
  if (K > kMaxColumns)
    throw std::invalid_argument("matrix: " + std::to_string(K) +
                                " columns of codes; at most 131071 keep int32 sums exact.");
  if (!groups || K % groups || (groups > 1 && K / groups % 16))
    throw std::invalid_argument("matrix: " + std::to_string(groups) + " scale groups in " +
                                std::to_string(K) +
                                " columns; a group must be a whole row or a multiple of 16.");
}

// The range of codes that the layout stores, from the smallest code it must hold.
int32_t low_of(Layout layout, int smallest, int largest) {
  if (layout == Layout::i8) return -128;
  const int32_t low = layout == Layout::t2 ? -1 : smallest;
  const int range = layout == Layout::t2 ? 3 : 16;
  if (smallest < low || largest >= low + range)
    throw std::invalid_argument("matrix: codes " + std::to_string(smallest) + " to " +
                                std::to_string(largest) + " do not fit layout " +
                                name_of(layout) + "; it holds " +
                                (layout == Layout::t2 ? "-1 to 1." : "16 values."));
  return low;
}

// Four codes at once: each byte plus `add`, modulo 256.
uint32_t add_bytes(uint32_t codes, uint32_t add) {
  constexpr uint32_t top = 0x80808080;
  return ((codes & ~top) + (add & ~top)) ^ ((codes ^ add) & top);
}

// The lane of row r: its four bytes of every vector.
template <int Bits>
void pack_row(const Matrix& m, const int8_t* codes, uint8_t* tile, size_t r) {
  constexpr size_t kCodes = 8 / Bits, kColumns = 4 * kCodes;
  const uint32_t minus_low = 0x01010101u * static_cast<uint8_t>(-m.low);
  for (size_t k = 0; k < m.columns; k += kColumns) {
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

void pack_codes(Matrix& m, const int8_t* codes, size_t n) {
  uint8_t* tile = m.data.data() + n / kTileRows * m.tile_bytes;
  const int8_t* row = codes + n * m.columns;
  switch (m.layout) {
    case Layout::t2: return pack_row<2>(m, row, tile, n % kTileRows);
    case Layout::i4: return pack_row<4>(m, row, tile, n % kTileRows);
    default: return pack_row<8>(m, row, tile, n % kTileRows);
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

void spread(const float* values_NG, const Matrix& m, float* out) {
  for (size_t n = 0; n < m.rows; ++n)
    for (size_t g = 0; g < m.groups; ++g)
      out[(n / kTileRows * m.groups + g) * kTileRows + n % kTileRows] = values_NG[n * m.groups + g];
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
  static const char* const names[] = {"t2", "i4", "i8", "f32", "f16", "bf16"};
  return names[static_cast<int>(layout)];
}

Matrix matrix_of_codes(const std::string& layout, const int8_t* codes, size_t N, size_t K,
                       const float* scale, const float* minimum, size_t groups) {
  Matrix m;
  if (layout == "t2")
    m.layout = Layout::t2;
  else if (layout == "i4")
    m.layout = Layout::i4;
  else if (layout == "i8")
    m.layout = Layout::i8;
  else
    throw std::invalid_argument("matrix: layout " + layout + " is unknown; accepted: t2, i4, i8.");
  check_groups(K, groups);
  int8_t smallest, largest;
  range_of(codes, N * K, &smallest, &largest);
  m.low = low_of(m.layout, smallest, largest);
  m.rows = N;
  m.columns = K;
  m.groups = groups;
  m.tiles = (N + kTileRows - 1) / kTileRows;
  const size_t columns = columns_of_vector(m.layout);
  m.tile_bytes = 64 * ((K + columns - 1) / columns);
  m.data = Buffer<uint8_t>(checked_product(m.tiles, m.tile_bytes));
  m.scale = Buffer<float>(m.tiles * groups * kTileRows);
  spread(scale, m, m.scale.data());
  if (minimum) {
    m.minimum = Buffer<float>(m.tiles * groups * kTileRows);
    spread(minimum, m, m.minimum.data());
  }
  parallel_for(N, 256, [&](size_t begin, size_t end) {
    for (size_t n = begin; n < end; ++n) pack_codes(m, codes, n);
  });
  return m;
}

Matrix matrix_of_floats(Layout layout, const void* values, size_t N, size_t K) {
  Matrix m;
  m.layout = layout;
  m.rows = N;
  m.columns = K;
  m.tiles = (N + kTileRows - 1) / kTileRows;
  m.tile_bytes = checked_product(K, kTileRows * bytes_of(layout));
  m.data = Buffer<uint8_t>(checked_product(m.tiles, m.tile_bytes));
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

void Matrix::row(size_t index, float* y) const {
  const size_t tile = index / kTileRows, r = index % kTileRows;
  const uint8_t* w = data.data() + tile * tile_bytes;
  if (!has_codes()) {
    const auto* wide = reinterpret_cast<const float*>(w);
    const auto* half = reinterpret_cast<const uint16_t*>(w);
    for (size_t k = 0; k < columns; ++k)
      y[k] = layout == Layout::f32   ? wide[kTileRows * k + r]
             : layout == Layout::f16 ? float_of_half(half[kTileRows * k + r])
                                     : float_of_bits(uint32_t{half[kTileRows * k + r]} << 16);
    return;
  }
  const int bits = bits_of(layout);
  const size_t span = columns_of_vector(layout), group = columns / groups;
  for (size_t k = 0; k < columns; ++k) {
    const size_t within = k % span;
    const int stored =
        w[64 * (k / span) + 4 * r + within % 4] >> (bits * (within / 4)) & ((1 << bits) - 1);
    const size_t at = (tile * groups + k / group) * kTileRows + r;
    y[k] = static_cast<float>(stored + low) * scale.data()[at];
    if (minimum.data()) y[k] += minimum.data()[at];
  }
}

}  // namespace onebit
