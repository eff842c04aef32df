// The CPU operations, as one table of pointers per instruction set.
//
// Every table computes the same bits: the integer sums are exact, and the float code is written
// once (lanes.inl and the .inl files that need it) over 16 lanes in a fixed order, then compiled
// for each set. Operations neither check nor allocate nor throw; module.cpp and decoder.cpp have
// checked before.
//
// Shape letters: N rows of weights (out features), K columns (in features), T tokens.
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace onebit {

constexpr size_t kTileRows = 16;  // rows that a kernel computes side by side, one per lane
constexpr size_t kBlock = 32;     // activations that share a scale where a scheme asks for none

// Tokens stand in panels, inside which the same four columns of all tokens follow one another. The
// widths of panels, from the first token on: as many of 12 as fit, then the widest that fit.
constexpr size_t panel_of(size_t tokens_left) {
  return tokens_left >= 12  ? 12
         : tokens_left >= 8 ? 8
         : tokens_left >= 6 ? 6
         : tokens_left >= 4 ? 4
                            : tokens_left;
}

// One product y_TN = x_TK * W_NK^T (+ bias), for matrices of codes and of floats alike.
struct Product {
  // Weights, in one of the layouts of matrix.h.
  const uint8_t* w = nullptr;  // tiles of 16 rows, tile_bytes apart, 64-byte aligned
  size_t tile_bytes = 0;
  size_t rows = 0;     // N; the last tile may hold fewer than 16
  size_t columns = 0;  // K
  // Codes only: value = (unsigned code + low) * scale + minimum.
  const float* scale = nullptr;    // [tile][groups][16]
  const float* minimum = nullptr;  // the same shape, or null for zero
  size_t groups = 1;
  // Several groups may have their factors in fewer bytes, which stand for the same floats; see
  // Factors in matrix.h. `scale` and `minimum` are then the wide parts, or null.
  size_t factor_bytes = 4;
  const uint8_t* small_scale = nullptr;
  const uint8_t* small_minimum = nullptr;  // null for zero
  size_t wide_groups = 0, wide_shift = 0;  // with one byte: [tile][wide_groups][16], of
                                           // 2^wide_shift groups each
  int32_t low = 0;

  // Activations: int8 codes for matrices of codes, floats for matrices of floats. Codes stand in
  // panels: column k of token t of the panel of P tokens that starts at token t0 is
  // x[t0 * x_stride + (k / 4 * P + t - t0) * 4 + k % 4]. Zeros from K to x_stride. A product with
  // weights t1_6 and one step wants the columns in that layout's order.
  const int8_t* x = nullptr;
  const float* x_float = nullptr;  // T rows, x_stride apart
  size_t x_stride = 0;             // of codes: a multiple of 64
  size_t tokens = 0;               // T
  // Scales and sums of a panel stand together, as its codes do: block b of token t is at
  // x_scale[t0 * x_blocks + b * P + t - t0].
  const float* x_scale = nullptr;
  size_t x_blocks = 1;  // scales of a token: 1, or one for each kBlock columns

  // Codes only: K is walked in steps, inside which neither scale changes.
  size_t step = 0;   // columns; K, or a multiple of 16
  size_t steps = 1;  // K / step, rounded up
  // Of the activation codes of a step, in panels like x_scale, with `steps` in place of x_blocks:
  const int32_t* low_sum = nullptr;   // their sum times low
  const float* scaled_sum = nullptr;  // with a minimum: x_scale * float(their sum)

  // Tokens 2 t and 2 t + 1 are two terms of row t of y, which has their sum.
  bool two_terms = false;
  const float* bias = nullptr;  // [N] or null
  float* y = nullptr;           // [T][N]
  int32_t* sums = nullptr;      // [T][N]; if set, the integer sums go here and y is not written
};

// Computes the tiles [begin, end) of a product. Tiles do not depend on one another.
//   codes, per step:  y += float(sum of code * x) * (x_scale * scale)  then, with a minimum,
//                     y += minimum * scaled_sum;  then y += bias.
//                     Of pairs, the second is added last.
//                     sums are int32 and exact while K < 131072.
//   floats:           four sums by k % 4, each a chain of fma, joined as (s0 + s1) + (s2 + s3).
using ProductFn = void (*)(const Product& p, size_t begin, size_t end);

// Attention of T tokens, at positions first .. first + T - 1, in the `group` query heads that share a
// key/value head. A token sees positions 0 .. its own, or the last `window` of these if that is not 0:
//   p = softmax(scale * dot(q, k[s]));  out[d] = sum over s of p[s] * v[s][d]
// Softmax is online: steps of kSpan positions from 0 on (those that it sees), in base 2, with scale * log2 e taken into q.
// Per query (a token in a head) and step: score = one chain of fma over d; m = the largest so far;
// e = 2^(score - m); sum and out, brought to the new m, take the step's positions in order, by fma.
// So a query's result depends on no other query, and working memory not on the context. A NaN in q, or
// in a key or value that it sees, comes out as one.
struct Hadamard;
struct Attention {
  const float* q = nullptr;  // [T][group][head_dim], tokens `stride` apart
  float* out = nullptr;      // the same
  size_t stride = 0;
  size_t tokens = 0;  // T
  size_t first = 0;
  size_t window = 0;
  size_t group = 1;
  size_t head_dim = 0;
  float scale = 1.0f;
  const void* k = nullptr;   // tiles of 16 positions, [head_dim][16] each: positions in lanes
  const void* v = nullptr;   // [positions][v_stride]
  size_t v_stride = 0;       // head_dim rounded up to 16
  float* scratch = nullptr;  // attention_scratch(head_dim) floats, 64-byte aligned

  // Codes only, see kv_codes.h: k and v are then tiles of 16 positions, tile_bytes apart.
  size_t tile_bytes = 0;
  const uint16_t* first_k = nullptr;  // position 0 in half precision, head_dim rounded up to 32
  const uint16_t* first_v = nullptr;
  const Hadamard* turn = nullptr;     // what keys were turned by before they were rounded
};
// Over codes of 8, 4 and 3 bits (kv_codes.h): q, turned by Hadamard as the keys were, is rounded to
// int8 by its largest magnitude, so that a score is an integer sum, scaled; per step, e = 2^(score -
// the step's largest) times the scale of each value the query sees is rounded to 15 bits (8-bit
// codes) or 7, relative to the largest scale. Integer sums are exact, float order is as above.
constexpr size_t kSpan = 64;     // positions of a step
constexpr size_t kQueries = 48;  // queries that go through the positions together
constexpr size_t attention_scratch(size_t head_dim) {
  const size_t D = (head_dim + 31) / 32 * 32;
  // queries, outputs and probabilities; codes of queries and, in two planes, of probabilities; what
  // belongs to a step's positions
  return kQueries * (2 * D + kSpan + 16 + 2) + kQueries * (D / 4 + kSpan / 2 + 16 + 4) +
         5 * kSpan + D + kSpan * D / 4;
}

// The orthonormal Hadamard transform of n numbers: blocks of `size`, each seen as an array
// [order of the last axis] ... [order of axis 0][power]. hadamard.h chooses the orders.
struct Hadamard {
  static constexpr size_t kMostAxes = 3;
  size_t n = 1, size = 1;
  size_t power = 1;  // Sylvester's, a power of two: butterflies at distances 1, 2, 4, ...
  size_t axes = 0;
  size_t order[kMostAxes] = {};            // multiples of 4, at most 256
  const float* signs[kMostAxes] = {};      // [order][order], 1 or -1: sums in the order of columns
  float scale = 1.0f;                      // 1 / sqrt(size), multiplied last
};

// How floats become codes. steps: the codes that `size` becomes; all are within low..high.
struct Range {
  float steps, low, high;
};
constexpr Range kInt8 = {127.0f, -128.0f, 127.0f};

struct Ops {
  const char* isa;

  // Products: gemv for one token, gemm for any number. gemv_t2_i8: weights t2, activations i8.
  ProductFn gemv_t2_i8, gemm_t2_i8;
  ProductFn gemv_t1_6_i8, gemm_t1_6_i8;
  ProductFn gemv_b1_i8, gemm_b1_i8;
  ProductFn gemv_i4_i8, gemm_i4_i8;
  ProductFn gemv_i6_i8, gemm_i6_i8;
  ProductFn gemv_i8_i8, gemm_i8_i8;
  ProductFn gemv_f32_f32, gemm_f32_f32;
  ProductFn gemv_f16_f32, gemm_f16_f32;
  ProductFn gemv_bf16_f32, gemm_bf16_f32;

  // Largest |x[i]|; 0 for n = 0. NaN if any is one.
  float (*absmax)(const float* x, size_t n);
  // The mean of |x[i]|, summed in double.
  float (*absmean)(const float* x, size_t n);
  // Where a number, or the `size` of all, is NaN or infinite, the quantizers return NaN for a scale;
  // the codes are then any.
  // m = max(size, 1e-5); codes = round_half_even(x * (steps / m)) within low..high; returns m / steps.
  float (*quantize)(const float* x, size_t n, float size, const Range& range, int8_t* codes);
  // `quantize` to kInt8 for each kBlock columns, with a scale of their own.
  void (*quantize_i8_blocks)(const float* x, size_t n, int8_t* codes, float* scale);
  // What these codes leave of x, rounded with 1/254 of their scales:
  // x = (codes + rest / 254) * scale, but for scale / 508.
  void (*remainder_i8_blocks)(const float* x, size_t n, const int8_t* codes, const float* scale,
                              int8_t* rest, float* rest_scale);
  // low = min x; m = max(max x - low, 1e-5); codes = round_half_even((x - low) * (128 / m)) within
  // 0..127; returns m / 128. x = codes * that + low.
  float (*quantize_positive)(const float* x, size_t n, int8_t* codes, float* low);
  // m = max(size, 1e-5); codes = x * (12 / m) rounded to 0, 1, 2, 3, 4, 6, 8 or 12, with its sign;
  // ties go to the level of even index. Returns m / 12: E2M1, whose numbers are half of the codes.
  float (*quantize_fp4)(const float* x, size_t n, float size, int8_t* codes);
  // As `quantize` to kInt8, then codes are 0 where |x| is below the ceil(n / 2)-th largest. `size` is
  // the largest |x|.
  float (*quantize_half)(const float* x, size_t n, float size, int8_t* codes);
  // y = codes * scale
  void (*dequantize)(const int8_t* codes, float scale, float* y, size_t n);
  // sums[i] = sum of codes[16 i .. 16 i + 15], for i < n
  void (*sum_by_16)(const int8_t* codes, int32_t* sums, size_t n);
  // A tile of weights t2, of `blocks` of 80 columns, in the layout t1_6. See matrix.h.
  void (*t1_6_of_t2)(const uint8_t* t2, size_t blocks, uint8_t* tile);

  // y = (x * (1 / sqrt(mean(x^2) + eps))) * w; returns the largest |y|, as absmax. y may be x.
  float (*rms_norm)(const float* x, const float* w, float eps, float* y, size_t n);
  // The same, told the sum of x^2 by one of those below.
  float (*normalize)(const float* x, const float* w, float squares, float eps, float* y, size_t n);
  // Without weights: y = (x - mean) * (1 / sqrt(mean((x - mean)^2) + eps)); returns the largest |y|.
  // y may be x.
  float (*layer_norm)(const float* x, float eps, float* y, size_t n);
  // y = silu(gate) * up, silu(g) = g / (1 + exp(-g));  y = max(gate, 0)^2 * up;  y = gelu(gate) * up,
  // gelu(g) = g / (1 + exp(-2 u)), u = sqrt(2 / pi) (g + 0.044715 g^3). y may be gate.
  // All return the sum of y^2, ready for `normalize`.
  float (*glu_silu)(const float* gate, const float* up, float* y, size_t n);
  float (*glu_relu2)(const float* gate, const float* up, float* y, size_t n);
  float (*glu_gelu_tanh)(const float* gate, const float* up, float* y, size_t n);
  // y += x; returns the sum of y^2.
  float (*add)(const float* x, float* y, size_t n);
  // In place: (a, b) = (a cos - b sin, b cos + a sin) for a = x[i], b = x[i + half]
  void (*rope)(float* x, const float* cos, const float* sin, size_t half);
  // Within 2 ulp; 0 below -104, infinity above 89.
  void (*exp)(const float* x, float* y, size_t n);

  // In place, plan.n numbers; returns the largest magnitude of the result, as absmax.
  float (*hadamard)(const Hadamard& plan, float* x);

  // IEEE half precision, round to nearest even.
  void (*f32_to_f16)(const float* x, uint16_t* y, size_t n);
  void (*f16_to_f32)(const uint16_t* x, float* y, size_t n);

  // Codes of x within its range, for keys and values: minimum = half(min x), scale = half of
  // (max x - min x) / levels, codes = round_half_even((x - minimum) * (1 / scale)) within
  // 0 .. levels; all 0 for a scale of 0. Halfs beyond 65504 stay there. A NaN makes the scale one.
  void (*quantize_range)(const float* x, size_t n, int levels, uint8_t* codes, uint16_t* scale,
                         uint16_t* minimum);

  void (*attend_f32)(const Attention& a);
  void (*attend_f16)(const Attention& a);
  void (*attend_i8)(const Attention& a);
  void (*attend_i4)(const Attention& a);
  void (*attend_i3)(const Attention& a);

  // Recurrent layers.
  // y = sigmoid(gate) * up, sigmoid(g) = 1 / (1 + exp(-g)).
  float (*glu_sigmoid)(const float* gate, const float* up, float* y, size_t n);
  // n channels of T tokens, whose rows are `stride` apart, one after the other:
  //   s = sigmoid(f); with a lower bound, s = lower + (1 - lower) s
  //   h = s h + silu(i) (1 - s)
  // lower: [n] or null. h: [n], before the first token and then after the last. i becomes h.
  void (*mlgru)(const float* f, float* i, const float* lower, float* h, size_t T, size_t stride,
                size_t n);
};

extern const Ops kScalar;
#if defined(__x86_64__)
extern const Ops kAvx2;
extern const Ops kAvxVnni;
extern const Ops kAvx512Vnni;
extern const Ops kAvx512Vbmi;
#elif defined(__aarch64__)
extern const Ops kNeonDotprod;
extern const Ops kNeonI8mm;
#endif

}  // namespace onebit
