// Scales and minima of small groups in the fewest bytes that hold them to the bit.
#include <string.h>

#include <algorithm>
#include <atomic>
#include <utility>

#include "half.h"
#include "matrix.h"
#include "parallel.h"

namespace onebit {
namespace {

constexpr size_t kWideColumns = 256;  // that share a float32 factor beside int8 ones

uint32_t bits_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return bits;
}

// Calls f(tile) for all tiles, on all threads, until one returns false.
template <class F>
bool all_tiles(const Matrix& m, F&& f) {
  std::atomic<bool> good{true};
  parallel_for(m.tiles, 16, [&](size_t begin, size_t end) {
    for (size_t tile = begin; tile < end && good.load(std::memory_order_relaxed); ++tile)
      if (!f(tile)) good.store(false);
  });
  return good.load();
}

bool halves(const Matrix& m, const Buffer<float>& from, Factors& out) {
  const size_t count = m.groups * kTileRows;
  out.small = Buffer<uint8_t>(2 * from.size());
  return all_tiles(m, [&](size_t tile) {
    const float* values = from.data() + tile * count;
    auto* to = reinterpret_cast<uint16_t*>(out.small.data()) + tile * count;
    uint32_t lost = 0;
    for (size_t i = 0; i < count; ++i) {
      to[i] = half_of_float(values[i]);
      lost |= bits_of(float_of_half(to[i])) ^ bits_of(values[i]);
    }
    return lost == 0;
  });
}

// Writes small integers to small[0], small[16] ... and returns the float that makes values[0],
// values[16] ... of them. False if there is none.
bool divide(const float* values, size_t count, int8_t* small, float* wide) {
  size_t top = 0;
  for (size_t i = 1; i < count; ++i)
    if (__builtin_fabsf(values[16 * i]) > __builtin_fabsf(values[16 * top])) top = i;
  const auto works = [&](float by) {
    for (size_t i = 0; i < count; ++i) {
      const float quotient = by != 0.0f ? values[16 * i] / by : 0.0f;
      if (!(quotient >= -128.0f && quotient <= 127.0f)) return false;
      const auto code = static_cast<int8_t>(quotient);
      if (bits_of(static_cast<float>(code) * by) != bits_of(values[16 * i])) return false;
      small[16 * i] = code;
    }
    *wide = by;
    return true;
  };
  // The quantizers of ggml take the largest scale to -128, or to 63.
  const float largest = values[16 * top];
  if (largest == 0.0f) return works(0.0f) || works(-0.0f);
  for (int code = 128; code; --code)
    if (works(largest / static_cast<float>(-code)) ||
        (code < 128 && works(largest / static_cast<float>(code))))
      return true;
  return false;
}

bool small_multiples(const Matrix& m, size_t shift, const Buffer<float>& from, Factors& out) {
  const size_t span = size_t{1} << shift, wide_groups = (m.groups + span - 1) >> shift;
  out.small = Buffer<uint8_t>(from.size());
  out.wide = Buffer<float>(m.tiles * wide_groups * kTileRows);
  return all_tiles(m, [&](size_t tile) {
    for (size_t g = 0; g < m.groups; g += span)
      for (size_t r = 0; r < kTileRows; ++r) {
        const size_t at = (tile * m.groups + g) * kTileRows + r;
        auto* small = reinterpret_cast<int8_t*>(out.small.data()) + at;
        float* wide = out.wide.data() + (tile * wide_groups + (g >> shift)) * kTileRows + r;
        if (!divide(from.data() + at, std::min(span, m.groups - g), small, wide)) return false;
      }
    return true;
  });
}

}  // namespace

void shrink_factors(Matrix& m) {
  if (m.groups == 1 || m.factor_bytes != 4) return;
  const size_t group = m.columns / m.groups;
  size_t shift = 0;
  while (group << shift < kWideColumns) ++shift;
  const bool fits = group << shift == kWideColumns && shift > 0;
  for (size_t bytes : {2, 1}) {
    if (bytes == 1 && !fits) return;
    Factors scale, minimum;
    const auto shrink = [&](const Factors& from, Factors& to) {
      return bytes == 2 ? halves(m, from.wide, to) : small_multiples(m, shift, from.wide, to);
    };
    if (!shrink(m.scale, scale) || (m.has_minimum() && !shrink(m.minimum, minimum))) continue;
    m.scale = std::move(scale);
    m.minimum = std::move(minimum);
    m.factor_bytes = bytes;
    if (bytes == 1) {
      m.wide_shift = shift;
      m.wide_groups = (m.groups + (size_t{1} << shift) - 1) >> shift;
    }
    return;
  }
}

}  // namespace onebit
