#include "training.h"

#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <new>

#include "each_block.h"
#include "target.h"

namespace onebit {
namespace {

// Of one row.
struct RowOps {
  float (*quantize_f32)(const float* x, size_t K, int8_t* codes, int32_t* sum);
  float (*quantize_bf16)(const uint16_t* x, size_t K, int8_t* codes, int32_t* sum);
  void (*dequantize_f32)(const int8_t* codes, float scale, size_t K, float* y);
  void (*dequantize_bf16)(const int8_t* codes, float scale, size_t K, uint16_t* y);
  void (*ternarize)(const float* w, float inverse, size_t K, int8_t* codes);
  void (*round_bf16)(const float* x, size_t n, uint16_t* y);
  float (*normalize_f32)(const float* x, const float* w, float eps, size_t K, float* y);
  float (*normalize_bf16)(const uint16_t* x, const float* w, float eps, size_t K, uint16_t* y);
  void (*normalize_backward_f32)(const float* x, const float* w, float r, const float* dy, size_t K,
                                 float* dx, float* dw);
  void (*normalize_backward_bf16)(const uint16_t* x, const float* w, float r, const uint16_t* dy,
                                  size_t K, uint16_t* dx, float* dw);
};

#define ONEBIT_BODY "training.inl"
#include "widths.inl"

constexpr size_t kTokenBlock = 48;         // tokens that a thread takes at once, whole panels
constexpr size_t kScratchFloats = 1 << 16; // of a block's product, before it is bfloat16

size_t round_up(size_t n, size_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// Puts columns k .. k + 15 of four tokens, K apart, into a panel of P: 4 x 4 pieces of four bytes.
ONEBIT_INLINE void put_four_by_sixteen(const int8_t* rows, size_t K, size_t P, int8_t* to) {
  typedef int32_t Four __attribute__((vector_size(16)));
  Four a, b, c, d;
  memcpy(&a, rows, 16);
  memcpy(&b, rows + K, 16);
  memcpy(&c, rows + 2 * K, 16);
  memcpy(&d, rows + 3 * K, 16);
  const Four ac = __builtin_shufflevector(a, c, 0, 4, 1, 5);
  const Four bd = __builtin_shufflevector(b, d, 0, 4, 1, 5);
  const Four last_ac = __builtin_shufflevector(a, c, 2, 6, 3, 7);
  const Four last_bd = __builtin_shufflevector(b, d, 2, 6, 3, 7);
  const Four out[4] = {__builtin_shufflevector(ac, bd, 0, 4, 1, 5),
                       __builtin_shufflevector(ac, bd, 2, 6, 3, 7),
                       __builtin_shufflevector(last_ac, last_bd, 0, 4, 1, 5),
                       __builtin_shufflevector(last_ac, last_bd, 2, 6, 3, 7)};
  for (size_t j = 0; j < 4; ++j) memcpy(to + 4 * j * P, &out[j], 16);
}

}  // namespace

TokenCodes::TokenCodes(size_t T, size_t K)
    : tokens_(T), columns_(K), stride_(round_up(K, 64)), scale_(new float[T]), sum_(new int32_t[T]) {
  const size_t bytes = round_up(checked_product(T, stride_), 64);
  panels_.reset(static_cast<int8_t*>(aligned_alloc(64, std::max<size_t>(bytes, 64))));
  if (!panels_) throw std::bad_alloc();
}

// Tokens t .. t + count - 1, whose first stands at the beginning of a panel, as all do with whole
// panels before them.
void TokenCodes::put_in_panels(const int8_t* codes, size_t t, size_t count) {
  const size_t whole = columns_ / 4 * 4;
  for (const size_t end = t + count; t < end;) {
    const size_t P = panel_of(tokens_ - t);
    int8_t* panel = panels_.get() + t * stride_;
    const size_t fours = P / 4 * 4, sixteens = columns_ / 16 * 16;
    for (size_t k = 0; k < sixteens; k += 16)
      for (size_t i = 0; i < fours; i += 4)
        put_four_by_sixteen(codes + (t + i) * columns_ + k, columns_, P, panel + k * P + 4 * i);
    for (size_t i = 0; i < P; ++i) {
      const int8_t* row = codes + (t + i) * columns_;
      int8_t* to = panel + 4 * i;
      for (size_t k = i < fours ? sixteens : 0; k < whole; k += 4) memcpy(to + k * P, row + k, 4);
      for (size_t k = whole; k < stride_; k += 4) memset(to + k * P, 0, 4);
      if (whole < columns_) memcpy(to + whole * P, row + whole, columns_ - whole);
    }
    t += P;
  }
}

void TokenCodes::quantize(const Ops& ops, Floats x, int8_t* codes, float* scale, size_t threads) {
  const RowOps& rows = table_of(ops);
  const size_t blocks = (tokens_ + kTokenBlock - 1) / kTokenBlock;
  each_block(blocks, workers_of(blocks, threads), [&](size_t block, size_t) {
    const size_t begin = block * kTokenBlock, end = std::min(begin + kTokenBlock, tokens_);
    for (size_t t = begin; t < end; ++t) {
      int8_t* out = codes + t * columns_;
      int32_t* sum = sum_.get() + t;
      scale[t] = scale_[t] =
          x.bf16 ? rows.quantize_bf16(static_cast<const uint16_t*>(x.data) + t * columns_, columns_,
                                      out, sum)
                 : rows.quantize_f32(static_cast<const float*>(x.data) + t * columns_, columns_,
                                     out, sum);
    }
    put_in_panels(codes, begin, end - begin);
  });
}

void TokenCodes::take(const int8_t* codes, const float* scale, size_t threads) {
  const size_t blocks = (tokens_ + kTokenBlock - 1) / kTokenBlock;
  memcpy(scale_.get(), scale, tokens_ * sizeof(float));
  each_block(blocks, workers_of(blocks, threads), [&](size_t block, size_t) {
    const size_t begin = block * kTokenBlock, end = std::min(begin + kTokenBlock, tokens_);
    for (size_t t = begin; t < end; ++t) {
      int32_t sum = 0;
      for (size_t k = 0; k < columns_; ++k) sum += codes[t * columns_ + k];
      sum_[t] = sum;
    }
    put_in_panels(codes, begin, end - begin);
  });
}

void TokenCodes::product(const Ops& ops, const Matrix& matrix, FloatsOut y, size_t threads) const {
  const RowOps& rows = table_of(ops);
  const size_t N = matrix.rows;
  // few tokens, many rows: enough blocks for all threads, and a scratch that stays in a cache
  const size_t fit = std::max<size_t>(kScratchFloats / N / 12, 1) * 12;
  const size_t span = std::min(kTokenBlock, fit), blocks = (tokens_ + span - 1) / span;
  const size_t workers = workers_of(blocks, threads);
  std::unique_ptr<float[]> scratch(y.bf16 ? new float[checked_product(workers * span, N)] : nullptr);
  std::unique_ptr<int32_t[]> low_sum(new int32_t[tokens_]);
  for (size_t t = 0; t < tokens_; ++t) low_sum[t] = matrix.low * sum_[t];
  Product p;
  p.w = matrix.data.data();
  p.tile_bytes = matrix.tile_bytes;
  p.rows = N;
  p.columns = p.step = columns_;
  p.scale = matrix.scale.wide.data();
  p.low = matrix.low;
  p.x_stride = stride_;
  const ProductFn gemm = matrix.layout == Layout::t2   ? ops.gemm_t2_i8
                         : matrix.layout == Layout::b1 ? ops.gemm_b1_i8
                         : matrix.layout == Layout::i4 ? ops.gemm_i4_i8
                         : matrix.layout == Layout::i6 ? ops.gemm_i6_i8
                                                       : ops.gemm_i8_i8;
  each_block(blocks, workers, [&](size_t block, size_t worker) {
    const size_t t = block * span;
    Product part = p;
    part.tokens = std::min(span, tokens_ - t);
    part.x = panels_.get() + t * stride_;
    part.x_scale = scale_.get() + t;
    part.low_sum = low_sum.get() + t;
    part.y = y.bf16 ? scratch.get() + worker * span * N : static_cast<float*>(y.data) + t * N;
    gemm(part, 0, matrix.tiles);
    if (y.bf16)
      rows.round_bf16(part.y, part.tokens * N, static_cast<uint16_t*>(y.data) + t * N);
  });
}

Matrix ternary_matrix(const Ops& ops, const float* w, size_t N, size_t K, const float* scale,
                      size_t scales, int8_t* codes, size_t threads) {
  const RowOps& rows = table_of(ops);
  Matrix m = matrix_like(Layout::t2, N, K, 1, -1, false, Pages::small);
  each_block(m.tiles, workers_of(m.tiles, threads), [&](size_t tile, size_t) {
    const size_t first = tile * kTileRows, count = std::min(kTileRows, N - first);
    float row_scale[kTileRows] = {};
    for (size_t r = 0; r < count; ++r) {
      const size_t n = first + r;
      row_scale[r] = scale[scales == 1 ? 0 : n];
      rows.ternarize(w + n * K, 1.0f / row_scale[r], K, codes + n * K);
    }
    set_tile(m, tile, codes + first * K, row_scale, nullptr);
  });
  return m;
}

void dequantize_rows(const Ops& ops, const int8_t* codes, size_t count, size_t K,
                     const float* scale, size_t scales, FloatsOut y, size_t threads) {
  const RowOps& rows = table_of(ops);
  const size_t blocks = (count + kTokenBlock - 1) / kTokenBlock;
  each_block(blocks, workers_of(blocks, threads), [&](size_t block, size_t) {
    const size_t end = std::min((block + 1) * kTokenBlock, count);
    for (size_t n = block * kTokenBlock; n < end; ++n) {
      const float s = scale[scales == 1 ? 0 : n];
      if (y.bf16)
        rows.dequantize_bf16(codes + n * K, s, K, static_cast<uint16_t*>(y.data) + n * K);
      else
        rows.dequantize_f32(codes + n * K, s, K, static_cast<float*>(y.data) + n * K);
    }
  });
}

void rms_norm_rows(const Ops& ops, Floats x, const float* w, float eps, size_t count, size_t K,
                   FloatsOut y, float* r, size_t threads) {
  const RowOps& rows = table_of(ops);
  const size_t blocks = (count + kTokenBlock - 1) / kTokenBlock;
  each_block(blocks, workers_of(blocks, threads), [&](size_t block, size_t) {
    const size_t end = std::min((block + 1) * kTokenBlock, count);
    for (size_t t = block * kTokenBlock; t < end; ++t)
      r[t] = x.bf16 ? rows.normalize_bf16(static_cast<const uint16_t*>(x.data) + t * K, w, eps, K,
                                          static_cast<uint16_t*>(y.data) + t * K)
                    : rows.normalize_f32(static_cast<const float*>(x.data) + t * K, w, eps, K,
                                         static_cast<float*>(y.data) + t * K);
  });
}

void rms_norm_backward(const Ops& ops, Floats x, const float* w, const float* r, Floats dy,
                       size_t count, size_t K, FloatsOut dx, float* dw, size_t threads) {
  const RowOps& rows = table_of(ops);
  const size_t blocks = (count + kTokenBlock - 1) / kTokenBlock;
  // a sum for each block, and then of the blocks in their order, whatever the threads
  std::unique_ptr<float[]> sums(new float[checked_product(blocks, K)]());
  each_block(blocks, workers_of(blocks, threads), [&](size_t block, size_t) {
    const size_t end = std::min((block + 1) * kTokenBlock, count);
    float* sum = sums.get() + block * K;
    for (size_t t = block * kTokenBlock; t < end; ++t)
      if (x.bf16)
        rows.normalize_backward_bf16(static_cast<const uint16_t*>(x.data) + t * K, w, r[t],
                                     static_cast<const uint16_t*>(dy.data) + t * K, K,
                                     static_cast<uint16_t*>(dx.data) + t * K, sum);
      else
        rows.normalize_backward_f32(static_cast<const float*>(x.data) + t * K, w, r[t],
                                    static_cast<const float*>(dy.data) + t * K, K,
                                    static_cast<float*>(dx.data) + t * K, sum);
  });
  std::fill(dw, dw + K, 0.0f);
  for (size_t block = 0; block < blocks; ++block)
    for (size_t k = 0; k < K; ++k) dw[k] += sums[block * K + k];
}

}  // namespace onebit
