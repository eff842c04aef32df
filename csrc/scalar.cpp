// The reference: plain loops over the layouts of matrix.h, for any CPU. Every other instruction set
// must compute exactly these integers.
#include <math.h>
#include <string.h>

#include "half.h"
#include "ops.h"
#include "target.h"

namespace onebit {
namespace scalar {
namespace {

#define ONEBIT_PIECE 16
#include "lanes.inl"

constexpr int kTokens = 4;
constexpr int kFloatTokens = 2;

ONEBIT_INLINE Lanes fma(const Lanes& a, const Lanes& b, const Lanes& c) {
  float x[16], y[16], z[16];
  store(x, a);
  store(y, b);
  store(z, c);
  for (int i = 0; i < 16; ++i) z[i] = __builtin_fmaf(x[i], y[i], z[i]);
  return load(z);
}
ONEBIT_INLINE IntLanes dot4(const IntLanes& sum, const IntLanes& u, const IntLanes& s) {
  uint8_t a[64];
  int8_t b[64];
  int32_t y[16];
  memcpy(a, u.p, 64);
  memcpy(b, s.p, 64);
  store(y, sum);
  for (int i = 0; i < 64; ++i) y[i / 4] += a[i] * b[i];
  return load(y);
}
ONEBIT_INLINE Lanes load_i8(const int8_t* x) {
  float part[16];
  for (int i = 0; i < 16; ++i) part[i] = x[i];
  return load(part);
}
ONEBIT_INLINE Lanes load_f16(const uint16_t* x) {
  float part[16];
  for (int i = 0; i < 16; ++i) part[i] = float_of_half(x[i]);
  return load(part);
}
ONEBIT_INLINE void store_f16(uint16_t* y, const Lanes& a) {
  float part[16];
  store(part, a);
  for (int i = 0; i < 16; ++i) y[i] = half_of_float(part[i]);
}

template <class W>
constexpr int tiles_of(int) {
  return 1;
}

// A byte of row r holds Codes codes of Bits bits; code m belongs to column 4 * Codes * b + 4 m + j.
// The signs of b1 are 0 and 2 here, so that low = -1 makes them -1 and 1.
template <int Bits>
struct Codes {
  static constexpr int kCodes = 8 / Bits;
  static constexpr size_t kColumns = 4 * kCodes;

  template <int R, int T>
  static void sums(const uint8_t* w, size_t tile_bytes, const int8_t* x, size_t x_step,
                   size_t vectors, IntLanes (&u)[R][T]) {
    for (int tile = 0; tile < R; ++tile, w += tile_bytes) {
      int32_t sum[T][16] = {};
      for (size_t b = 0; b < vectors; ++b)
        for (int m = 0; m < kCodes; ++m)
          for (int r = 0; r < 16; ++r)
            for (int j = 0; j < 4; ++j) {
              const int32_t stored = (w[64 * b + 4 * r + j] >> (Bits * m)) & ((1 << Bits) - 1);
              const int32_t code = Bits == 1 ? 2 * stored : stored;
              for (int t = 0; t < T; ++t)
                sum[t][r] += code * x[(kCodes * b + m) * x_step + 4 * t + j];
            }
      for (int t = 0; t < T; ++t) u[tile][t] = u[tile][t] + load(sum[t]);
    }
  }
};
using B1 = Codes<1>;
using T2 = Codes<2>;
using I4 = Codes<4>;
using I8 = Codes<8>;

// Five trits a byte, as an 8-bit fraction of 3^5: each multiplication by 3 pushes one out at the top.
struct T1_6 {
  static constexpr bool kDirect = false;

  static void decode(const uint8_t* w, size_t blocks, uint8_t* out) {
    for (; blocks; --blocks, w += 256, out += 320) {
      memset(out, 0, 320);
      for (int v = 0; v < 4; ++v)
        for (int i = 0; i < 64; ++i) {
          uint32_t rest = w[64 * v + i] * 3u;
          out[256 + i] |= (uint8_t)((rest >> 8) << (2 * v));  // the first trit
          for (int n = 1; n < 5; ++n) {
            rest = (rest & 255) * 3;
            out[64 * v + i] |= (uint8_t)((rest >> 8) << (2 * (n - 1)));
          }
        }
    }
  }
};

#include "float_ops.inl"
#include "quantize.inl"
#include "attention.inl"
#include "hadamard.inl"
#include "attention_codes.inl"
#include "trits.inl"
#include "products.inl"

}  // namespace
}  // namespace scalar

const Ops kScalar = scalar::make_ops("scalar");

}  // namespace onebit
