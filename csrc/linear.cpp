#include "linear.h"

#include <string.h>

#include <algorithm>
#include <numeric>
#include <stdexcept>

#include "parallel.h"

namespace onebit {
namespace {

size_t round_up(size_t n, size_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// Tokens below which a row-wise operation is not worth waking a thread for.
constexpr size_t kTokenGrain = 4;
// Tiles below which a product is not.
constexpr size_t kTileGrain = 4;

// Columns over which neither the weight's scale nor the activation's changes.
size_t step_of(const Matrix& m, size_t x_blocks) {
  const size_t group = m.columns / m.groups;
  if (x_blocks == 1) return group;
  return m.groups == 1 ? kBlock : std::gcd(group, kBlock);
}

}  // namespace

Activation activation_of(const std::string& name) {
  if (name == "fp") return Activation::fp;
  if (name == "int8_absmax") return Activation::int8_absmax;
  if (name == "int8_absmax_tensor") return Activation::int8_absmax_tensor;
  if (name == "int4_absmean") return Activation::int4_absmean;
  throw std::invalid_argument(
      "activation " + name +
      " is unknown; accepted: fp, int8_absmax, int8_absmax_tensor, int4_absmean.");
}

void Input::reserve(size_t T, size_t K) {
  const size_t stride = round_up(K, 64);
  floats_.grow(checked_product(T, K));
  codes_.grow(checked_product(T, stride));
  scale_.grow(checked_product(T, (K + kBlock - 1) / kBlock));
  sum16_.grow(checked_product(T, stride / 16));
}

bool Input::same(const Linear& linear, const Linear& other) {
  return linear.activation == other.activation && linear.norm.empty() && other.norm.empty() &&
         linear.matrix->has_codes() == other.matrix->has_codes();
}

void Input::prepare(const Ops& ops, const float* x, size_t T, size_t K, const Linear& linear,
                    float eps, const float* largest) {
  reserve(T, K);
  tokens_ = T;
  columns_ = K;
  code_stride_ = round_up(K, 64);
  const Activation activation = linear.activation;
  const bool codes = linear.matrix->has_codes();
  const bool fine = activation == Activation::fp;
  blocks_ = fine && codes ? (K + kBlock - 1) / kBlock : 1;
  if (!linear.norm.empty()) {
    parallel_for(T, kTokenGrain, [&](size_t begin, size_t end) {
      for (size_t t = begin; t < end; ++t)
        ops.rms_norm(x + t * K, linear.norm.data(), eps, floats_.data() + t * K, K);
    });
    x = floats_.data();
    largest = nullptr;
  }
  values_ = x;
  if (fine && !codes) return;
  const float whole =
      activation == Activation::int8_absmax_tensor ? ops.absmax(x, T * K) : 0.0f;
  parallel_for(T, kTokenGrain, [&](size_t begin, size_t end) {
    for (size_t t = begin; t < end; ++t) {
      const float* row = x + t * K;
      int8_t* out = codes_.data() + t * code_stride_;
      float* scale = scale_.data() + t * blocks_;
      if (fine) {
        ops.quantize_i8_blocks(row, K, out, scale);
      } else if (activation == Activation::int4_absmean) {
        scale[0] = ops.quantize_i4(row, K, out);
      } else {
        const float top = activation == Activation::int8_absmax_tensor ? whole
                          : largest                                    ? largest[t]
                                                                       : ops.absmax(row, K);
        scale[0] = ops.quantize_i8(row, K, top, out);
      }
      memset(out + K, 0, code_stride_ - K);
      if (codes)
        ops.sum_by_16(out, sum16_.data() + t * (code_stride_ / 16), code_stride_ / 16);
      else
        ops.dequantize(out, scale[0], floats_.data() + t * K, K);
    }
  });
  values_ = floats_.data();
}

void Input::take_codes(const Ops& ops, const int8_t* codes, size_t T, size_t K) {
  reserve(T, K);
  tokens_ = T;
  columns_ = K;
  blocks_ = 1;
  code_stride_ = round_up(K, 64);
  for (size_t t = 0; t < T; ++t) {
    int8_t* out = codes_.data() + t * code_stride_;
    memcpy(out, codes + t * K, K);
    memset(out + K, 0, code_stride_ - K);
    ops.sum_by_16(out, sum16_.data() + t * (code_stride_ / 16), code_stride_ / 16);
  }
}

void Products::reserve(size_t T, size_t K) {
  for (Item& item : items_) item.step_sum.grow(checked_product(T, (K + 15) / 16));
}

Products::Item& Products::push(const Matrix& matrix, const Input& input, bool whole_row) {
  Item& item = items_[count_++];
  item.layout = matrix.layout;
  item.tiles = matrix.tiles;
  Product& p = item.product;
  p = Product{};
  p.w = matrix.data.data();
  p.tile_bytes = matrix.tile_bytes;
  p.rows = matrix.rows;
  p.columns = matrix.columns;
  p.tokens = input.tokens_;
  if (!matrix.has_codes()) {
    p.x_float = input.values_;
    p.x_stride = input.columns_;
    return item;
  }
  p.scale = matrix.scale.data();
  p.minimum = matrix.minimum.data();
  p.groups = matrix.groups;
  p.low = matrix.low;
  p.x = input.codes_.data();
  p.x_stride = input.code_stride_;
  p.x_scale = input.scale_.data();
  p.x_blocks = input.blocks_;
  p.step = whole_row ? p.columns : step_of(matrix, input.blocks_);
  p.steps = (p.columns + p.step - 1) / p.step;
  item.step_sum.grow(p.tokens * p.steps);
  const size_t stride16 = input.code_stride_ / 16;
  for (size_t t = 0; t < p.tokens; ++t)
    for (size_t s = 0; s < p.steps; ++s) {
      const int32_t* sum16 = input.sum16_.data() + t * stride16;
      const size_t end = std::min(s * p.step + p.step, p.columns);
      item.step_sum.data()[t * p.steps + s] =
          std::accumulate(sum16 + s * p.step / 16, sum16 + (end + 15) / 16, int32_t{0});
    }
  p.step_sum = item.step_sum.data();
  return item;
}

void Products::add(const Matrix& matrix, const Input& input, const float* bias, float* y) {
  Product& p = push(matrix, input, false).product;
  p.bias = bias;
  p.y = y;
}

void Products::add_sums(const Matrix& matrix, const Input& input, int32_t* sums) {
  push(matrix, input, true).product.sums = sums;
}

ProductFn Products::Item::fn(const Ops& ops) const {
  const bool one = product.tokens == 1;
  switch (layout) {
    case Layout::t2: return one ? ops.gemv_t2_i8 : ops.gemm_t2_i8;
    case Layout::i4: return one ? ops.gemv_i4_i8 : ops.gemm_i4_i8;
    case Layout::i8: return one ? ops.gemv_i8_i8 : ops.gemm_i8_i8;
    case Layout::f32: return one ? ops.gemv_f32_f32 : ops.gemm_f32_f32;
    case Layout::f16: return one ? ops.gemv_f16_f32 : ops.gemm_f16_f32;
    case Layout::bf16: break;
  }
  return one ? ops.gemv_bf16_f32 : ops.gemm_bf16_f32;
}

void Products::run(const Ops& ops) const {
  size_t tiles = 0;
  for (size_t i = 0; i < count_; ++i) tiles += items_[i].tiles;
  parallel_for(tiles, kTileGrain, [&](size_t begin, size_t end) {
    size_t first = 0;  // of the item, among all tiles
    for (size_t i = 0; i < count_; first += items_[i++].tiles) {
      const Item& item = items_[i];
      const size_t from = std::max(begin, first), to = std::min(end, first + item.tiles);
      if (from < to) item.fn(ops)(item.product, from - first, to - first);
    }
  });
}

}  // namespace onebit
