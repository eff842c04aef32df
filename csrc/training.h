// What a training step of a BitLinear computes natively: weights and inputs to codes, once per step,
// their product, and codes back to values for the gradients. The integers and factors are those of
// quant/ in torch; the product is the decoder's own. And RMSNorm, which comes before many of them.
//
// Shape letters: N rows of weights (out features), K columns (in features), T tokens.
#pragma once
#include <stdint.h>

#include <memory>

#include "matrix.h"
#include "ops.h"

namespace onebit {

// Floats of a tensor: float32, or the 16 bits of bfloat16.
struct Floats {
  const void* data = nullptr;
  bool bf16 = false;
};
struct FloatsOut {
  void* data = nullptr;
  bool bf16 = false;
};

// The codes of an input, in the order in which products read them. Layers that read the same input
// share it.
class TokenCodes {
 public:
  TokenCodes(size_t T, size_t K);

  // By "int8_absmax" in float32: m = max(max |x|, 1e-5) per token, codes = round_half_even(x * (127 /
  // m)), scale = m / 127. A NaN makes the token's scale NaN, so that it is not lost. Writes codes
  // [T][K] and scale [T] as well.
  void quantize(const Ops& ops, Floats x, int8_t* codes, float* scale, size_t threads);

  // Takes codes [T][K] and scale [T] as they are.
  void take(const int8_t* codes, const float* scale, size_t threads);

  // y[t][n] = float(sum of codes) * (scale of the token * scale of the row), [T][N], rounded once
  // where y is bfloat16. The matrix has codes, one scale a row, no minimum, and K columns; its layout
  // is not t1_6.
  void product(const Ops& ops, const Matrix& matrix, FloatsOut y, size_t threads) const;

  size_t tokens() const { return tokens_; }
  size_t columns() const { return columns_; }

 private:
  struct Free {
    void operator()(void* p) const { free(p); }
  };
  void put_in_panels(const int8_t* codes, size_t t, size_t count);

  size_t tokens_, columns_, stride_;
  std::unique_ptr<int8_t, Free> panels_;  // see Product::x; not set before it is written
  std::unique_ptr<float[]> scale_;
  std::unique_ptr<int32_t[]> sum_;  // of each token's codes
};

// codes = round_half_even(w * (1 / scale)) within -1..1, written to codes [N][K] and laid out as a
// matrix. scale has one number, or N.
Matrix ternary_matrix(const Ops& ops, const float* w, size_t N, size_t K, const float* scale,
                      size_t scales, int8_t* codes, size_t threads);

// y = codes * scale; scale has one number, or one for each row.
void dequantize_rows(const Ops& ops, const int8_t* codes, size_t rows, size_t K, const float* scale,
                     size_t scales, FloatsOut y, size_t threads);

// RMSNorm of each row: y = (x * r) * w with r = 1 / sqrt(mean(x^2) + eps), [rows]. Sums are float32,
// in an order that depends on nothing but K.
void rms_norm_rows(const Ops& ops, Floats x, const float* w, float eps, size_t rows, size_t K,
                   FloatsOut y, float* r, size_t threads);

// Its gradients. x, dy and dx are of one dtype; dw [K] is float32.
void rms_norm_backward(const Ops& ops, Floats x, const float* w, const float* r, Floats dy,
                       size_t rows, size_t K, FloatsOut dx, float* dw, size_t threads);

}  // namespace onebit
