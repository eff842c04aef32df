#include "linear.h"

#include <string.h>

#include <algorithm>
#include <atomic>
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

void check_parts(size_t K, size_t parts) {
  if (parts < 1 || K % parts || (parts > 1 && K / parts % kBlock))
    throw std::invalid_argument(std::to_string(K) + " columns in " + std::to_string(parts) +
                                " parts; each needs as many, and a multiple of " +
                                std::to_string(kBlock) + ".");
}

void check_planes(size_t K, const Linear& linear) {
  const Matrix& m = *linear.matrix;
  if (linear.planes < 1 || linear.planes > 2 || m.columns != linear.planes * K)
    throw std::invalid_argument("the matrix has " + std::to_string(m.columns) + " columns in " +
                                std::to_string(linear.planes) + " planes, the input " +
                                std::to_string(K) + ".");
  if (linear.planes > 1 && (!m.has_codes() || linear.parts > 1 || K % kBlock))
    throw std::invalid_argument("two planes of trits are codes, of columns in one part and in a "
                                "multiple of " + std::to_string(kBlock) + ".");
}

void Input::reserve(size_t T, size_t K) {
  const size_t stride = stride_of(K);
  floats_.grow(checked_product(T, K));
  codes_.grow(checked_product(T, stride));
  panels_.grow(checked_product(T, stride));
  scale_.grow(checked_product(T, (K + kBlock - 1) / kBlock));
  scale_panels_.grow(checked_product(T, (K + kBlock - 1) / kBlock));
  sum16_.grow(checked_product(T, stride / 16));
  minimum_.grow(checked_product(T, (K + kBlock - 1) / kBlock));  // parts are as wide, or one
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
         linear.layer_norm == other.layer_norm && linear.parts == other.parts &&
         linear.planes == other.planes &&
         linear.hadamard == other.hadamard && linear.signs == other.signs &&
         linear.matrix->has_codes() == other.matrix->has_codes() &&
         (linear.matrix->layout == Layout::t1_6) == (other.matrix->layout == Layout::t1_6);
}

// Row t of codes_ is there for one plane, and is the same for the others.
void Input::repeat_row(size_t t) {
  int8_t* codes = codes_of(t);
  float* scale = scale_of(t);
  for (size_t p = 1; p < planes_; ++p) {
    memcpy(codes + p * width_, codes, width_);
    if (blocks_ > 1) std::copy_n(scale, blocks_ / planes_, scale + p * (blocks_ / planes_));
  }
}

// Row t of codes_ is there: pads and sums it.
void Input::finish_row(const Ops& ops, size_t t) {
  int8_t* row = codes_of(t);
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

// A row after norm and transform, in `own`; returns its largest magnitude if that is known.
float Input::prepare_row(const Ops& ops, const Linear& linear, float eps, const float* row,
                         float* own, float largest) const {
  const size_t K = width_, P = K / linear.parts;
  for (size_t k = 0; k < K; k += P) {
    if (!linear.norm.empty())
      largest = ops.rms_norm(row + k, linear.norm.data() + k, eps, own + k, P);
    else if (linear.layer_norm)
      largest = ops.layer_norm(row + k, eps, own + k, P);
    else
      memcpy(own + k, row + k, P * sizeof(float));
  }
  if (!linear.hadamard) return largest;
  if (linear.signs)
    for (size_t k = 0; k < K; ++k) own[k] *= (*linear.signs)[k];
  return ops.hadamard(linear.hadamard->get(), own);
}

// The values that the codes of row t stand for, for a matrix of floats.
void Input::restore_row(const Ops& ops, size_t t, float* y) const {
  const size_t P = columns_ / parts_;
  for (size_t p = 0; p < parts_; ++p, y += P) {
    const float scale = scale_.data()[t * blocks_ + p * (blocks_ / parts_)];
    ops.dequantize(codes_.data() + t * code_stride_ + p * P, scale, y, P);
    if (!has_minimum_) continue;
    const float minimum = minimum_.data()[t * parts_ + p];
    for (size_t k = 0; k < P; ++k) y[k] += minimum;
  }
}

// The codes of row t, part by part; blocks of a part repeat its scale.
void Input::quantize_row(const Ops& ops, const Linear& linear, const float* row, size_t t,
                         float largest) {
  const size_t P = width_ / parts_, blocks = blocks_ > 1 ? blocks_ / planes_ / parts_ : 1;
  int8_t* codes = codes_of(t);
  for (size_t p = 0; p < parts_; ++p) {
    const float scale = quantize(ops, linear.activation, row + p * P, P,
                                 parts_ == 1 ? largest : kUnknown, codes + p * P,
                                 minimum_.data() + t * parts_ + p);
    std::fill_n(scale_of(t) + p * blocks, blocks, scale);
  }
}

void Input::prepare(const Ops& ops, const float* x, size_t T, size_t K, const Linear& linear,
                    float eps, const Rows& rows) {
  const Activation& activation = linear.activation;
  const bool codes = linear.matrix->has_codes(), fine = activation.rule == Rule::fp;
  const bool tensor = activation.rule == Rule::absmax_tensor;
  const bool changed = !linear.norm.empty() || linear.layer_norm || linear.hadamard;
  const bool many = (fine && codes) || linear.parts > 1;
  two_terms_ = fine && codes && activation.terms == 2;
  const size_t terms = two_terms_ ? 2 : 1;
  width_ = K;
  planes_ = codes ? linear.planes : 1;
  const size_t blocks = many ? planes_ * ((K + kBlock - 1) / kBlock) : 1;
  set_size(terms * T, planes_ * K, blocks, *linear.matrix);
  parts_ = fine ? 1 : linear.parts;
  has_minimum_ = activation.has_minimum();
  values_ = changed || !fine ? floats_.data() : x;
  if (fine && !codes && !changed && !rows.make) return;
  const float whole = tensor ? ops.absmax(x, T * K) : kUnknown;
  parallel_for(T, kTokenGrain, [&](size_t begin, size_t end) {
    for (size_t t = begin; t < end; ++t) {
      const float* row = x + t * K;
      float* own = floats_.data() + t * K;
      float largest = rows.make ? rows.make(rows.context, t) : whole;
      if (changed) {
        largest = prepare_row(ops, linear, eps, row, own, largest);
        row = own;
      }
      if (!fine)
        quantize_row(ops, linear, row, t, largest);
      else if (codes)
        ops.quantize_i8_blocks(row, K, codes_of(terms * t), scale_of(terms * t));
      if (two_terms_)
        ops.remainder_i8_blocks(row, K, codes_of(2 * t), scale_of(2 * t), codes_of(2 * t + 1),
                                scale_of(2 * t + 1));
      if (codes) {
        for (size_t i = terms * t; i < terms * (t + 1); ++i) {
          repeat_row(i);
          finish_row(ops, i);
        }
      } else if (!fine) {
        restore_row(ops, t, own);
      }
    }
  });
  if (codes) make_panels();
}

void Input::take_codes(const Ops& ops, const int8_t* codes, size_t T, const Matrix& matrix) {
  set_size(T, matrix.columns, 1, matrix);
  width_ = columns_;
  planes_ = parts_ = 1;
  has_minimum_ = two_terms_ = false;
  for (size_t t = 0; t < T; ++t) {
    scale_.data()[t] = 1.0f;
    memcpy(codes_of(t), codes + t * columns_, columns_);
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
  p.two_terms = input.two_terms_;
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

void Products::add(const Ops& ops, const Linear& linear, const Input& input, float* y) {
  const Matrix& matrix = *linear.matrix;
  const float* bias = linear.bias.empty() ? nullptr : linear.bias.data();
  const bool minimum = input.has_minimum_ && matrix.has_codes();
  Item& item = push(matrix, input, false);
  item.product.y = y;
  item.product.bias = minimum ? nullptr : bias;
  item.x_minimum = minimum ? input.minimum_.data() : nullptr;
  if (minimum) item.row_sums = row_sums(ops, matrix, input.parts_);
  item.bias = bias;
  item.parts = input.parts_;
}

void Products::Item::add_minimum(size_t tile, size_t tile_end) const {
  const size_t N = product.rows, end = std::min(tile_end * kTileRows, N);
  const float* sums = row_sums->values.data();
  for (size_t t = 0; t < product.tokens; ++t) {
    float* y = product.y + t * N;
    for (size_t p = 0; p < parts; ++p) {
      const float minimum = x_minimum[t * parts + p];
      for (size_t n = tile * kTileRows; n < end; ++n) y[n] += minimum * sums[p * N + n];
    }
    if (!bias) continue;
    for (size_t n = tile * kTileRows; n < end; ++n) y[n] += bias[n];
  }
}

void Products::add_sums(const Matrix& matrix, const Input& input, int32_t* sums) {
  Item& item = push(matrix, input, true);
  item.product.sums = sums;
  item.x_minimum = nullptr;
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
      if (2 * from >= to) continue;
      item.fn(ops)(item.product, 2 * from, to);
      if (item.x_minimum) item.add_minimum(2 * from, to);
    }
  });
}

// Each part is a token whose codes are 1 inside it and 0 elsewhere.
std::shared_ptr<const RowSums> row_sums(const Ops& ops, const Matrix& matrix, size_t parts) {
  auto known = std::atomic_load(&matrix.sums_of_rows);
  if (known && known->parts == parts) return known;
  const size_t K = matrix.columns, P = K / parts;
  std::vector<int8_t> ones(parts * K);
  for (size_t p = 0; p < parts; ++p) std::fill_n(ones.data() + p * K + p * P, P, int8_t{1});
  auto sums = std::make_shared<RowSums>();
  sums->parts = parts;
  sums->values.resize(parts * matrix.rows);
  Input input;
  input.take_codes(ops, ones.data(), parts, matrix);
  Products products;
  Linear linear;
  linear.matrix = std::shared_ptr<const Matrix>(std::shared_ptr<void>(), &matrix);  // not owned
  products.add(ops, linear, input, sums->values.data());
  products.run(ops);
  known = std::move(sums);
  std::atomic_store(&matrix.sums_of_rows, known);
  return known;
}

}  // namespace onebit
