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
// Pairs of tiles up to which a product is not.
constexpr size_t kPairGrain = 2;

// Columns over which neither the weight's scale nor the activation's changes.
size_t step_of(const Matrix& m, size_t x_blocks) {
  const size_t group = m.columns / m.groups;
  if (x_blocks == 1) return group;
  return m.groups == 1 ? kBlock : std::gcd(group, kBlock);
}

size_t stride_of(size_t K) { return round_up(round_up(K, 80), 64); }

// The order of columns that layout t1_6 wants; see matrix.h. K is padded to 80.
void order_by_fives(const int8_t* from, int8_t* to, size_t K) {
  for (size_t k = 0; k < K; k += 80, from += 80, to += 80)
    for (size_t i = 0; i < 4; ++i)
      for (size_t j = 0; j < 4; ++j) {
        const int8_t* five = from + 20 * i + 5 * j;
        to[64 + 4 * i + j] = five[0];
        for (size_t m = 0; m < 4; ++m) to[16 * i + 4 * m + j] = five[m + 1];
      }
}

// One token's row among the P of its panel.
void put_in_panel(const int8_t* row, int8_t* panel, size_t columns, size_t P) {
  for (size_t k = 0; k < columns; k += 4) memcpy(panel + k * P, row + k, 4);
}

// Calls f(first, count) for each panel, several panels to a thread.
template <class F>
void each_panel(size_t T, F&& f) {
  const size_t whole = T / 12, panels = whole + (T % 12 ? 1 : 0);  // the rest goes with one thread
  parallel_for(panels, 1, [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end; ++i)
      for (size_t t = 12 * i, stop = i < whole ? t + 12 : T; t < stop;) {
        const size_t count = panel_of(T - t);
        f(t, count);
        t += count;
      }
  });
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
  const size_t stride = stride_of(K);
  floats_.grow(checked_product(T, K));
  codes_.grow(checked_product(T, stride));
  panels_.grow(checked_product(T, stride));
  scale_.grow(checked_product(T, (K + kBlock - 1) / kBlock));
  scale_panels_.grow(checked_product(T, (K + kBlock - 1) / kBlock));
  sum16_.grow(checked_product(T, stride / 16));
}

void Input::set_size(size_t T, size_t K, size_t blocks, const Matrix& matrix) {
  reserve(T, K);
  tokens_ = T;
  columns_ = K;
  blocks_ = blocks;
  code_stride_ = stride_of(K);
  by_fives_ = matrix.layout == Layout::t1_6 && blocks == 1;
}

bool Input::same(const Linear& linear, const Linear& other) {
  return linear.activation == other.activation && linear.norm.empty() && other.norm.empty() &&
         linear.hadamard == other.hadamard &&
         linear.matrix->has_codes() == other.matrix->has_codes() &&
         (linear.matrix->layout == Layout::t1_6) == (other.matrix->layout == Layout::t1_6);
}

// Row t of codes_ is there: pads and sums it.
void Input::finish_row(const Ops& ops, size_t t) {
  int8_t* row = codes_.data() + t * code_stride_;
  memset(row + columns_, 0, code_stride_ - columns_);
  ops.sum_by_16(row, sum16_.data() + t * (code_stride_ / 16), code_stride_ / 16);
}

void Input::make_panels() {
  x_scale_ = scale_.data();  // where blocks_ is 1, tokens stand one after the other in panels too
  if (blocks_ > 1 && tokens_ > 1) {
    x_scale_ = scale_panels_.data();
    each_panel(tokens_, [&](size_t first, size_t count) {
      float* panel = scale_panels_.data() + first * blocks_;
      for (size_t b = 0; b < blocks_; ++b)
        for (size_t i = 0; i < count; ++i)
          panel[b * count + i] = scale_.data()[(first + i) * blocks_ + b];
    });
  }
  if (tokens_ == 1 && !by_fives_) {
    x_ = codes_.data();
    return;
  }
  x_ = panels_.data();
  each_panel(tokens_, [&](size_t first, size_t count) {
    int8_t* panel = panels_.data() + first * code_stride_;
    for (size_t i = 0; i < count; ++i) {
      const int8_t* row = codes_.data() + (first + i) * code_stride_;
      if (!by_fives_) {
        put_in_panel(row, panel + 4 * i, code_stride_, count);
        continue;
      }
      int8_t part[1280];
      for (size_t k = 0; k < round_up(columns_, 80); k += sizeof part) {
        const size_t columns = std::min(sizeof part, round_up(columns_, 80) - k);
        order_by_fives(row + k, part, columns);
        put_in_panel(part, panel + k * count + 4 * i, columns, count);
      }
    }
  });
}

void Input::prepare(const Ops& ops, const float* x, size_t T, size_t K, const Linear& linear,
                    float eps, const Rows& rows) {
  const Activation activation = linear.activation;
  const bool codes = linear.matrix->has_codes(), fine = activation == Activation::fp;
  const bool tensor = activation == Activation::int8_absmax_tensor;
  const bool norm = !linear.norm.empty(), changed = norm || linear.hadamard;
  set_size(T, K, fine && codes ? (K + kBlock - 1) / kBlock : 1, *linear.matrix);
  values_ = changed || !fine ? floats_.data() : x;
  if (fine && !codes && !changed && !rows.make) return;
  const float whole = tensor ? ops.absmax(x, T * K) : 0.0f;
  parallel_for(T, kTokenGrain, [&](size_t begin, size_t end) {
    for (size_t t = begin; t < end; ++t) {
      const float* row = x + t * K;
      float *own = floats_.data() + t * K, *scale = scale_.data() + t * blocks_;
      int8_t* out = codes_.data() + t * code_stride_;
      bool known = tensor;  // the largest |x|
      float largest = whole;
      if (rows.make) {
        largest = rows.make(rows.context, t);
        known = true;
      }
      if (norm) {
        largest = ops.rms_norm(row, linear.norm.data(), eps, own, K);
        known = true;
      }
      if (linear.hadamard) {
        if (!norm) memcpy(own, row, K * sizeof(float));
        ops.hadamard(linear.hadamard->get(), own);
        known = false;
      }
      if (changed) row = own;
      if (fine && !codes) continue;
      if (fine)
        ops.quantize_i8_blocks(row, K, out, scale);
      else if (activation == Activation::int4_absmean)
        scale[0] = ops.quantize_i4(row, K, out);
      else
        scale[0] = ops.quantize_i8(row, K, known ? largest : ops.absmax(row, K), out);
      if (codes)
        finish_row(ops, t);
      else
        ops.dequantize(out, scale[0], own, K);
    }
  });
  if (codes) make_panels();
}

void Input::take_codes(const Ops& ops, const int8_t* codes, size_t T, const Matrix& matrix) {
  set_size(T, matrix.columns, 1, matrix);
  for (size_t t = 0; t < T; ++t) {
    memcpy(codes_.data() + t * code_stride_, codes + t * columns_, columns_);
    finish_row(ops, t);
  }
  make_panels();
}

void Products::reserve(size_t T, size_t K) {
  for (Item& item : items_) {
    item.low_sum.grow(checked_product(T, (K + 15) / 16));
    item.scaled_sum.grow(checked_product(T, (K + 15) / 16));
  }
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
  p.scale = matrix.scale.wide.data();
  p.minimum = matrix.minimum.wide.data();
  p.factor_bytes = matrix.factor_bytes;
  p.small_scale = matrix.scale.small.data();
  p.small_minimum = matrix.minimum.small.data();
  p.wide_groups = matrix.wide_groups;
  p.wide_shift = matrix.wide_shift;
  p.groups = matrix.groups;
  p.low = matrix.low;
  p.x = input.x_;
  p.x_stride = input.code_stride_;
  p.x_scale = input.x_scale_;
  p.x_blocks = input.blocks_;
  p.step = whole_row ? p.columns : step_of(matrix, input.blocks_);
  p.steps = (p.columns + p.step - 1) / p.step;
  item.sum_steps(input, matrix.has_minimum() && !whole_row);
  return item;
}

// What the product wants to know of the sums of its input's codes.
void Products::Item::sum_steps(const Input& input, bool has_minimum) {
  Product& p = product;
  low_sum.grow(p.tokens * p.steps);
  p.low_sum = low_sum.data();
  if (has_minimum) {
    scaled_sum.grow(p.tokens * p.steps);
    p.scaled_sum = scaled_sum.data();
  }
  const size_t stride16 = input.code_stride_ / 16;
  each_panel(p.tokens, [&](size_t first, size_t count) {
    for (size_t i = 0; i < count; ++i) {
      const int32_t* sum16 = input.sum16_.data() + (first + i) * stride16;
      for (size_t s = 0; s < p.steps; ++s) {
        const size_t end = std::min(s * p.step + p.step, p.columns);
        const int32_t sum =
            std::accumulate(sum16 + s * p.step / 16, sum16 + (end + 15) / 16, int32_t{0});
        const size_t at = first * p.steps + s * count + i;
        low_sum.data()[at] = p.low * sum;
        if (!has_minimum) continue;
        const size_t block = p.x_blocks == 1 ? 0 : s * p.step / kBlock;
        scaled_sum.data()[at] =
            p.x_scale[first * p.x_blocks + block * count + i] * static_cast<float>(sum);
      }
    }
  });
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
    case Layout::t1_6: return one ? ops.gemv_t1_6_i8 : ops.gemm_t1_6_i8;
    case Layout::b1: return one ? ops.gemv_b1_i8 : ops.gemm_b1_i8;
    case Layout::i4: return one ? ops.gemv_i4_i8 : ops.gemm_i4_i8;
    case Layout::i6: return one ? ops.gemv_i6_i8 : ops.gemm_i6_i8;
    case Layout::i8: return one ? ops.gemv_i8_i8 : ops.gemm_i8_i8;
    case Layout::f32: return one ? ops.gemv_f32_f32 : ops.gemm_f32_f32;
    case Layout::f16: return one ? ops.gemv_f16_f32 : ops.gemm_f16_f32;
    case Layout::bf16: break;
  }
  return one ? ops.gemv_bf16_f32 : ops.gemm_bf16_f32;
}

void Products::run(const Ops& ops) const {
  // Pairs of tiles, as the widest register tiles take them.
  size_t pairs = 0;
  for (size_t i = 0; i < count_; ++i) pairs += (items_[i].tiles + 1) / 2;
  parallel_for(pairs, kPairGrain, [&](size_t begin, size_t end) {
    size_t first = 0;  // of the item, among all pairs
    for (size_t i = 0; i < count_; first += (items_[i++].tiles + 1) / 2) {
      const Item& item = items_[i];
      if (end <= first) break;
      const size_t from = std::max(begin, first) - first;
      const size_t to = std::min(2 * (end - first), item.tiles);
      if (2 * from < to) item.fn(ops)(item.product, 2 * from, to);
    }
  });
}

}  // namespace onebit
