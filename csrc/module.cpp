// onebit.kernels.cpu: checks arguments, frees the GIL, calls. No arithmetic here. active_ops() reads
// the environment, which Python changes with the GIL held, so it is called before freeing it.
// What a caller got wrong raises ValueError; see src/onebit/kernels/cpu.pyi for the contract.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>

#include "block_search_module.h"
#include "body.h"
#include "cache.h"
#include "columns_module.h"
#include "container.h"
#include "decoder.h"
#include "dispatch.h"
#include "hadamard.h"
#include "linear.h"
#include "machine.h"
#include "matrix.h"
#include "ndarrays.h"
#include "ops.h"
#include "parallel.h"
#include "recurrence_module.h"
#include "training_module.h"
#include "unpack.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace onebit {
namespace {

template <class T>
using Out = nb::ndarray<nb::numpy, T, nb::c_contig>;

template <class Array>
void check_dims(const char* what, const Array& x, size_t dims) {
  if (x.ndim() != dims)
    fail(std::string(what) + " has " + std::to_string(x.ndim()) + " dimensions; expected " +
         std::to_string(dims) + ".");
}

// A new array that Python owns. Its memory is not set.
template <class T>
Out<T> new_array(std::initializer_list<size_t> shape) {
  size_t count = 1;
  for (size_t n : shape) count = checked_product(count, n);
  T* data = new T[count ? count : 1];
  nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<T*>(p); });
  return Out<T>(data, shape, owner);
}

std::vector<float> copy(const char* what, const std::optional<In<float>>& x) {
  if (!x) return {};
  check_dims(what, *x, 1);
  return {x->data(), x->data() + x->shape(0)};
}

// --- matrices and their products

std::shared_ptr<Matrix> from_codes(const std::string& layout, In<int8_t> codes, In<float> scale,
                                   std::optional<In<float>> minimum) {
  check_dims("codes_NK", codes, 2);
  check_dims("scale_NG", scale, 2);
  const size_t N = codes.shape(0), K = codes.shape(1), G = scale.shape(1);
  if (!N || !K) fail("codes_NK is empty.");
  if (scale.shape(0) != N)
    fail("scale_NG has " + std::to_string(scale.shape(0)) + " rows, codes_NK " +
         std::to_string(N) + ".");
  if (minimum && (minimum->ndim() != 2 || minimum->shape(0) != N || minimum->shape(1) != G))
    fail("minimum_NG must have the shape of scale_NG.");
  nb::gil_scoped_release release;
  return std::make_shared<Matrix>(matrix_of_codes(layout, codes.data(), N, K, scale.data(),
                                                  minimum ? minimum->data() : nullptr, G));
}

std::shared_ptr<Matrix> from_floats(nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu> values) {
  check_dims("values_NK", values, 2);
  const size_t N = values.shape(0), K = values.shape(1);
  if (!N || !K) fail("values_NK is empty.");
  const nb::dlpack::dtype type = values.dtype();
  Layout layout;
  if (type == nb::dtype<float>())
    layout = Layout::f32;
  else if (type == nb::dtype<uint16_t>())
    layout = Layout::bf16;
  else if (type.code == static_cast<uint8_t>(nb::dlpack::dtype_code::Float) && type.bits == 16)
    layout = Layout::f16;
  else
    fail("values_NK must be float32, float16, or the bits of bfloat16 as uint16.");
  nb::gil_scoped_release release;
  return std::make_shared<Matrix>(matrix_of_floats(layout, values.data(), N, K));
}

// None where the bytes are damaged.
std::shared_ptr<Matrix> from_stored(const std::string& format, In<uint8_t> data, size_t rows,
                                    size_t columns, std::optional<In<float>> scale,
                                    const std::string& ternary, std::optional<In<float>> minimum,
                                    std::optional<In<int8_t>> zero) {
  Stored s;
  s.format = find_stored_format(format.c_str());
  if (!s.format) fail("format " + format + " is unknown.");
  if (!rows || rows >> 40 || !columns || columns > kMaxColumns || columns % s.format->columns)
    fail("format " + format + " holds no " + std::to_string(rows) + " x " +
         std::to_string(columns) + " weights, or the kernels do not.");
  if (data.ndim() != 1 || data.shape(0) != s.format->size_bytes(rows, columns))
    fail("the bytes are not those of " + std::to_string(rows) + " x " + std::to_string(columns) +
         " weights.");
  if ((s.format->factors == factors_apart) != scale.has_value())
    fail("format " + format + " and the scale do not go together.");
  if (scale && (scale->ndim() != 2 || scale->shape(0) != rows || !scale->shape(1) ||
                columns % scale->shape(1)))
    fail("scale_NG does not go with the weights.");
  const auto beside_scale = [&](const auto& factor) {
    return !factor || (scale && factor->ndim() == 2 && factor->shape(0) == rows &&
                       factor->shape(1) == scale->shape(1));
  };
  if (!beside_scale(minimum) || !beside_scale(zero) || (zero && !minimum))
    fail("minimum_NG or zero_NG does not go with the scale.");
  const Layout layout = layout_of(ternary);
  if (layout != Layout::t2 && layout != Layout::t1_6)
    fail("ternary is " + ternary + "; accepted: t2, t1_6.");
  s.data = data.data();
  s.rows = rows;
  s.columns = columns;
  if (scale) {
    s.scale = scale->data();
    s.scale_groups = scale->shape(1);
  }
  s.minimum = minimum ? minimum->data() : nullptr;
  s.zero = zero ? zero->data() : nullptr;
  const Ops& ops = active_ops();
  nb::gil_scoped_release release;
  auto matrix = std::make_shared<Matrix>();
  return matrix_of_stored(ops, s, layout, matrix.get()) ? matrix : nullptr;
}

std::string faster_ternary_layout(In<uint8_t> data) {
  check_dims("data", data, 1);
  const Ops& ops = active_ops();
  nb::gil_scoped_release release;
  return name_of(faster_ternary(ops, data.data(), data.shape(0)));
}

Out<float> rows(const Matrix& m, In<int32_t> index) {
  check_dims("index_T", index, 1);
  const size_t T = index.shape(0);
  for (size_t t = 0; t < T; ++t)
    if (index.data()[t] < 0 || static_cast<size_t>(index.data()[t]) >= m.rows)
      fail("row " + std::to_string(index.data()[t]) + " is outside 0 to " +
           std::to_string(m.rows - 1) + ".");
  Out<float> y = new_array<float>({T, m.columns});
  nb::gil_scoped_release release;
  for (size_t t = 0; t < T; ++t)
    m.row(static_cast<size_t>(index.data()[t]), y.data() + t * m.columns);
  return y;
}

template <class T>
void check_columns(const Matrix& m, const In<T>& x) {
  check_dims("x_TK", x, 2);
  if (x.shape(1) != m.columns)
    fail("the matrix has " + std::to_string(m.columns) + " columns, the input " +
         std::to_string(x.shape(1)) + ".");
}

Out<int32_t> int_sums(const Matrix& m, In<int8_t> x) {
  check_columns(m, x);
  if (!m.has_codes()) fail("int_sums needs a matrix of codes; this one is " +
                           std::string(name_of(m.layout)) + ".");
  const size_t T = x.shape(0);
  Out<int32_t> y = new_array<int32_t>({T, m.rows});
  const Ops& ops = active_ops();
  nb::gil_scoped_release release;
  Input input;
  input.take_codes(ops, x.data(), T, m);
  Products products;
  products.add_sums(m, input, y.data());
  products.run(ops);
  return y;
}

constexpr char kTensorParts[] = "activation int8_absmax_tensor has one scale, and parts have several.";

Out<float> linear(std::shared_ptr<Matrix> m, In<float> x, const std::string& activation,
                  size_t parts, float input_scale, int input_zero, size_t planes) {
  check_dims("x_TK", x, 2);
  const size_t T = x.shape(0), K = x.shape(1);
  Linear layer;
  layer.matrix = m;
  layer.activation = activation_of(activation, input_scale, input_zero);
  layer.parts = parts;
  layer.planes = planes;
  check_planes(K, layer);
  check_parts(K, parts);
  if (layer.activation.rule == Rule::absmax_tensor && parts > 1) fail(kTensorParts);
  Out<float> y = new_array<float>({T, m->rows});
  const Ops& ops = active_ops();
  nb::gil_scoped_release release;
  Input input;
  input.prepare(ops, x.data(), T, K, layer, 0.0f);
  Products products;
  products.add(ops, layer, input, y.data());
  products.run(ops);
  return y;
}

// Seconds that the products alone take, of one pass over matrices which read the same input.
double time_products(const std::vector<std::shared_ptr<Matrix>>& matrices, In<float> x,
                     const std::string& activation) {
  if (matrices.empty()) fail("time_products: no matrices.");
  for (const std::shared_ptr<Matrix>& m : matrices)
    if (!m) fail("time_products: None is no matrix.");
  Linear layer;
  layer.matrix = matrices[0];
  layer.activation = activation_of(activation);
  size_t N = 0;
  for (const std::shared_ptr<Matrix>& m : matrices) {
    check_columns(*m, x);
    Linear other = layer;
    other.matrix = m;
    if (!Input::same(layer, other)) fail("time_products: the matrices' layouts differ in input.");
    N = std::max(N, m->rows);
  }
  const size_t T = x.shape(0);
  const Ops& ops = active_ops();
  nb::gil_scoped_release release;
  Buffer<float> y(checked_product(T, N));
  Input input;
  input.prepare(ops, x.data(), T, matrices[0]->columns, layer, 0.0f);
  Products products;
  double time_s = 0;
  for (const std::shared_ptr<Matrix>& m : matrices) {
    products.clear();
    layer.matrix = m;
    products.add(ops, layer, input, y.data());
    const auto begin = std::chrono::steady_clock::now();
    products.run(ops);
    time_s += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }
  return time_s;
}

// --- single operations

// Rows that are worth a thread of their own.
constexpr size_t kRowGrain = 8;

nb::tuple quantize_i8(In<float> x, int64_t block) {
  check_dims("x_TK", x, 2);
  const size_t T = x.shape(0), K = x.shape(1);
  if (!K) fail("x_TK has no columns.");
  if (block < 0) fail("block is " + std::to_string(block) + "; 0 means a scale per row.");
  const size_t span = block ? static_cast<size_t>(block) : K, B = (K - 1) / span + 1;
  Out<int8_t> codes = new_array<int8_t>({T, K});
  Out<float> scale = new_array<float>({T, B});
  const Ops& ops = active_ops();
  {
    nb::gil_scoped_release release;
    for (size_t t = 0; t < T; ++t)
      for (size_t b = 0; b < B; ++b) {
        const size_t at = t * K + b * span, n = b + 1 < B ? span : K - b * span;
        const float* from = x.data() + at;
        scale.data()[t * B + b] =
            ops.quantize(from, n, ops.absmax(from, n), kInt8, codes.data() + at);
      }
  }
  return nb::make_tuple(codes, scale);
}

// Codes [T][K], scale [T][parts], and the minimum of that shape for rules that have one, else None.
nb::tuple quantize_by(In<float> x, const std::string& name, size_t parts, float input_scale,
                      int input_zero) {
  check_dims("x_TK", x, 2);
  const size_t T = x.shape(0), K = x.shape(1);
  if (!K || !parts || K % parts)
    fail(std::to_string(K) + " columns do not make " + std::to_string(parts) + " equal parts.");
  const Activation activation = activation_of(name, input_scale, input_zero);
  if (activation.rule == Rule::fp) fail("activation fp rounds nothing.");
  const bool tensor = activation.rule == Rule::absmax_tensor;
  if (tensor && parts > 1) fail(kTensorParts);
  const size_t P = K / parts;
  Out<int8_t> codes = new_array<int8_t>({T, K});
  Out<float> scale = new_array<float>({T, parts}), minimum = new_array<float>({T, parts});
  const Ops& ops = active_ops();
  {
    nb::gil_scoped_release release;
    const float whole = tensor ? ops.absmax(x.data(), T * K) : kUnknown;
    parallel_for(T * parts, kRowGrain, [&](size_t begin, size_t end) {
      for (size_t i = begin; i < end; ++i)
        scale.data()[i] = quantize(ops, activation, x.data() + i * P, P, whole,
                                   codes.data() + i * P, minimum.data() + i);
    });
  }
  if (activation.has_minimum()) return nb::make_tuple(codes, scale, minimum);
  return nb::make_tuple(codes, scale, nb::none());
}

// Each row less its mean, over its standard deviation; parts of a row for themselves.
Out<float> layer_norm(In<float> x, float eps, size_t parts) {
  check_dims("x_TK", x, 2);
  const size_t T = x.shape(0), K = x.shape(1);
  if (!K || !parts || K % parts)
    fail(std::to_string(K) + " columns do not make " + std::to_string(parts) + " equal parts.");
  Out<float> y = new_array<float>({T, K});
  const size_t P = K / parts;
  const Ops& ops = active_ops();
  nb::gil_scoped_release release;
  parallel_for(T * parts, kRowGrain, [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end; ++i)
      ops.layer_norm(x.data() + i * P, eps, y.data() + i * P, P);
  });
  return y;
}

template <class From, class To, void (*Ops::*Op)(const From*, To*, size_t)>
Out<To> elementwise(In<From> x) {
  check_dims("x_N", x, 1);
  Out<To> y = new_array<To>({x.shape(0)});
  const Ops& ops = active_ops();
  nb::gil_scoped_release release;
  (ops.*Op)(x.data(), y.data(), x.shape(0));
  return y;
}

// H diag(signs) x, or transposed, which is the inverse: diag(signs) H^T x.
Out<float> hadamard(In<float> x, std::optional<In<float>> signs, bool transpose) {
  check_dims("x_TK", x, 2);
  const size_t T = x.shape(0), K = x.shape(1);
  if (!K) fail("x_TK has no columns.");
  if (signs && (signs->ndim() != 1 || signs->shape(0) != K)) fail("signs must be [K].");
  Out<float> y = new_array<float>({T, K});
  const Ops& ops = active_ops();
  nb::gil_scoped_release release;
  const HadamardPlan plan(K, transpose);
  const auto flip = [&](float* row) {
    if (!signs) return;
    for (size_t k = 0; k < K; ++k) row[k] *= signs->data()[k];
  };
  parallel_for(T, kRowGrain, [&](size_t begin, size_t end) {
    for (size_t t = begin; t < end; ++t) {
      float* row = y.data() + t * K;
      std::copy(x.data() + t * K, x.data() + (t + 1) * K, row);
      if (!transpose) flip(row);
      ops.hadamard(plan.get(), row);
      if (transpose) flip(row);
    }
  });
  return y;
}

// --- the machine

void check_threads(int64_t n) {
  if (n < 1 || n > 1024) fail("threads: " + std::to_string(n) + "; accepted: 1 to 1024.");
}

void set_thread_count(int64_t n) {
  check_threads(n);
  nb::gil_scoped_release release;
  set_threads(static_cast<size_t>(n));
}

double read_bandwidth(int64_t threads, int64_t bytes, double time_s) {
  check_threads(threads);
  if (bytes < 1 || !(time_s > 0)) fail("bytes and time_s must be positive.");
  nb::gil_scoped_release release;
  return measure_read_bandwidth(static_cast<size_t>(threads), static_cast<size_t>(bytes), time_s);
}

double int8_peak(int64_t threads, double time_s) {
  check_threads(threads);
  if (!(time_s > 0)) fail("time_s must be positive.");
  const char* isa = active_ops().isa;
  nb::gil_scoped_release release;
  return measure_int8_peak(isa, static_cast<size_t>(threads), time_s);
}

// --- the decoder

size_t size_in(nb::handle fields, const char* name, size_t limit) {
  const nb::object field = fields[name];  // KeyError is raised here: try_cast lets nothing through
  int64_t n = 0;
  if (!nb::try_cast<int64_t>(field, n) || n < 1 || n > static_cast<int64_t>(limit))
    fail("architecture: " + std::string(name) + " must be a whole number from 1 to " +
         std::to_string(limit) + ".");
  return static_cast<size_t>(n);
}

std::vector<float> inv_freq_in(nb::handle fields, const char* name, size_t head_dim) {
  const auto values = nb::cast<In<float>>(fields[name]);
  if (values.ndim() != 1 || values.shape(0) != head_dim / 2)
    fail("architecture: " + std::string(name) + " must be [head_dim / 2].");
  return std::vector<float>(values.data(), values.data() + values.shape(0));
}

void recurrent_shape(Shape& s, nb::handle fields) {
  const auto form = nb::cast<std::string>(fields["mlgru"]);
  if (form != "code" && form != "paper")
    fail("architecture: mlgru is " + form + "; accepted: code, paper.");
  if (s.gate != Shape::Gate::silu)
    fail("architecture: a recurrent model has hidden_act silu.");
  s.recurrent = true;
  s.norm_of_gate = form == "code";
  s.lower_bounds = nb::cast<bool>(fields["lower_bounds"]);
}

Shape shape_of(nb::handle fields) {
  Shape s;
  s.vocab = size_in(fields, "vocab_size", 1 << 22);
  s.hidden = size_in(fields, "hidden_size", 1 << 17);
  s.intermediate = size_in(fields, "intermediate_size", 1 << 19);
  s.layers = size_in(fields, "num_hidden_layers", 1024);
  s.eps = nb::cast<float>(fields["rms_norm_eps"]);
  const auto act = nb::cast<std::string>(fields["hidden_act"]);
  if (act != "silu" && act != "relu2" && act != "gelu_pytorch_tanh")
    fail("architecture: hidden_act is " + act + "; accepted: silu, relu2, gelu_pytorch_tanh.");
  s.gate = act == "silu"    ? Shape::Gate::silu
           : act == "relu2" ? Shape::Gate::relu2
                            : Shape::Gate::gelu_tanh;
  s.tied = nb::cast<bool>(fields["tie_word_embeddings"]);
  if (PyMapping_HasKeyString(fields.ptr(), "recurrent") && nb::cast<bool>(fields["recurrent"])) {
    recurrent_shape(s, fields);
    return s;
  }
  s.heads = size_in(fields, "num_attention_heads", 1024);
  s.kv_heads = size_in(fields, "num_key_value_heads", 1024);
  s.head_dim = size_in(fields, "head_dim", kMostHeadDim);
  if (s.heads % s.kv_heads || s.head_dim % 2)
    fail("architecture: num_attention_heads must be a multiple of num_key_value_heads, and "
         "head_dim even.");
  s.qkv_bias = nb::cast<bool>(fields["qkv_bias"]);
  s.out_bias = nb::cast<bool>(fields["out_bias"]);
  s.mlp_bias = nb::cast<bool>(fields["mlp_bias"]);
  s.qk_norm = nb::cast<bool>(fields["qk_norm"]);
  s.sub_norms = nb::cast<bool>(fields["sub_norms"]);
  s.pre_norms = nb::cast<bool>(fields["pre_norms"]);
  s.temperature = nb::cast<float>(fields["softmax_temperature"]);
  s.learned_temperature = nb::cast<bool>(fields["learned_temperature"]);
  s.q_bits = nb::cast<int>(fields["q_bits"]);
  if (s.q_bits != 16 && s.q_bits != 8 && s.q_bits != 4 && s.q_bits != 3)
    fail("architecture: q_bits is " + std::to_string(s.q_bits) + "; accepted: 16, 8, 4, 3.");
  s.inv_freq = inv_freq_in(fields, "inv_freq", s.head_dim);
  s.post_norms = nb::cast<bool>(fields["post_norms"]);
  s.embedding_scale = nb::cast<float>(fields["embedding_scale"]);
  if (nb::cast<int64_t>(fields["sliding_window"])) {
    s.window = size_in(fields, "sliding_window", 1 << 26);
    s.global_every = size_in(fields, "global_every", 1 << 26);
    s.local_inv_freq = inv_freq_in(fields, "local_inv_freq", s.head_dim);
  }
  return s;
}

void set_matrix(Decoder& decoder, const std::string& name, std::shared_ptr<Matrix> matrix,
                const std::string& activation, std::optional<In<float>> norm,
                std::optional<In<float>> bias, std::optional<In<float>> hadamard, bool layer_norm,
                size_t parts, float input_scale, int input_zero, size_t planes) {
  if (!matrix) fail(name + ": None is no matrix.");
  Linear linear;
  linear.matrix = std::move(matrix);
  linear.activation = activation_of(activation, input_scale, input_zero);
  linear.norm = copy("norm", norm);
  linear.bias = copy("bias", bias);
  linear.layer_norm = layer_norm;
  linear.parts = parts;
  linear.planes = planes;
  if (planes < 1 || planes > 2) fail(name + ": planes are 1 or 2.");
  if (hadamard) linear.signs = std::make_shared<std::vector<float>>(copy("hadamard", hadamard));
  const bool sums = linear.activation.has_minimum() && linear.matrix->has_codes();
  const std::shared_ptr<const Matrix> kept = linear.matrix;
  const Ops& ops = active_ops();
  nb::gil_scoped_release release;
  decoder.set_matrix(name, std::move(linear), hadamard.has_value());
  if (sums) row_sums(ops, *kept, parts);  // so that no token waits for them
}

std::unique_ptr<Memory> new_cache(Decoder& decoder, int64_t capacity, int kv_bits) {
  if (capacity < 1)
    fail("cache: capacity is " + std::to_string(capacity) + "; it must be at least 1 token.");
  try {
    return decoder.new_memory(static_cast<size_t>(capacity), kv_bits);
  } catch (const std::bad_alloc&) {
    PyErr_Format(PyExc_MemoryError,
                 "cache: no memory for %lld tokens of %d-bit keys and values (choose a smaller "
                 "capacity), or for the state that a recurrent model has in their place.",
                 static_cast<long long>(capacity), kv_bits);
    throw nb::python_error();
  }
}

Logits logits_of(const std::string& name) {
  if (name == "last") return Logits::last;
  if (name == "all") return Logits::all;
  if (name == "none") return Logits::none;
  fail("logits is " + name + "; accepted: last, all, none.");
}

Out<float> run(Decoder& decoder, const Append* appends, size_t count) {
  size_t rows = 0;
  for (size_t i = 0; i < count; ++i) rows += appends[i].rows_wanted();
  Out<float> y = new_array<float>({rows, decoder.vocab()});
  const Ops& ops = active_ops();
  nb::gil_scoped_release release;
  decoder.step(ops, appends, count, y.data());
  return y;
}

Out<float> forward(Decoder& decoder, In<int32_t> tokens, Memory& memory, const std::string& logits) {
  check_dims("tokens_T", tokens, 1);
  const Append append = {&memory, tokens.data(), tokens.shape(0), logits_of(logits)};
  return run(decoder, &append, 1);
}

// Shared pointers keep the caches while the GIL is free and others may change the list.
Out<float> step(Decoder& decoder, const std::vector<std::shared_ptr<Memory>>& caches,
                const std::vector<In<int32_t>>& tokens, const std::vector<std::string>& logits) {
  if (tokens.size() != caches.size() || logits.size() != caches.size())
    fail("step: " + std::to_string(caches.size()) + " caches, " + std::to_string(tokens.size()) +
         " rows of tokens and " + std::to_string(logits.size()) + " of logits; give one of each " +
         "for every sequence.");
  std::vector<Append> appends;
  for (size_t i = 0; i < caches.size(); ++i) {
    const In<int32_t>& more = tokens[i];
    check_dims("tokens_T", more, 1);
    appends.push_back({caches[i].get(), more.data(), more.shape(0), logits_of(logits[i])});
  }
  return run(decoder, appends.data(), appends.size());
}

void set_length(Memory& memory, int64_t length) {
  if (length < 0) fail("cache: length is " + std::to_string(length) + "; it cannot be negative.");
  nb::gil_scoped_release release;
  memory.set_length(static_cast<size_t>(length));
}

size_t length(const Memory& memory) {
  nb::gil_scoped_release release;
  return memory.length();
}

void copy_prefix(Memory& memory, const Memory& from, int64_t n) {
  if (n < 0) fail("cache: a prefix of " + std::to_string(n) + " tokens; it cannot be negative.");
  nb::gil_scoped_release release;
  memory.copy_prefix(from, static_cast<size_t>(n));
}

// One layer's attention by itself, one head after the other, for tests and measurements.
class AttentionOnly {
 public:
  AttentionOnly(size_t heads, size_t kv_heads, size_t head_dim, size_t capacity, int kv_bits,
                size_t window)
      : heads_(heads),
        kv_heads_(kv_heads),
        head_dim_(head_dim),
        window_(window),
        cache_(owner_, 1, heads, kv_heads, head_dim, capacity, kv_bits) {}

  void write(In<float> k, In<float> v) {
    check(k, kv_heads_);
    check(v, kv_heads_);
    const size_t T = k.shape(0);
    if (T != v.shape(0) || T > cache_.capacity() - length_) fail("keys and values do not fit.");
    const Ops& ops = active_ops();
    nb::gil_scoped_release release;
    cache_.write(ops, 0, length_, T, k.data(), v.data());
    length_ += T;
  }

  Out<float> attend(In<float> q) {
    check(q, heads_);
    const size_t T = q.shape(0);
    if (!T || T > length_) fail("more queries than positions, or none.");
    Out<float> out = new_array<float>({T, heads_, head_dim_});
    const Ops& ops = active_ops();
    nb::gil_scoped_release release;
    Buffer<float> scratch(Cache::scratch_floats(head_dim_));
    const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim_));
    for (size_t i = 0; i < kv_heads_; ++i)
      cache_.attend(ops, 0, i, length_ - T, T, q.data(), out.data(), scratch.data(), scale,
                    window_);
    return out;
  }

  size_t size_bytes() const { return cache_.size_bytes(); }

 private:
  void check(const In<float>& x, size_t heads) const {
    check_dims("x_THD", x, 3);
    if (x.shape(1) != heads || x.shape(2) != head_dim_) fail("x_THD has other heads or dimensions.");
  }

  size_t heads_, kv_heads_, head_dim_, window_, length_ = 0;
  Decoder owner_{Shape{}};
  Cache cache_;
};

void check_attention(size_t heads, size_t kv_heads, size_t head_dim, size_t capacity,
                     int kv_bits) {
  Cache::check_bits(kv_bits);
  if (!heads || !kv_heads || heads % kv_heads || !head_dim || head_dim > 1024 || !capacity)
    fail("attention: heads must be a multiple of kv_heads, no size 0, and head_dim at most 1024.");
}

}  // namespace
}  // namespace onebit

NB_MODULE(cpu, m) {
  using namespace onebit;
  m.doc() = "The native engine. Contracts: cpu.pyi.";

  m.def("isas", &isas);
  m.def("active_isa", [] { return std::string(active_ops().isa); });
  m.def("set_threads", &set_thread_count, "n"_a);
  m.def("threads", &threads);
  m.def("default_threads", &available_cpus, "root"_a = "");
  m.def("available_memory", &available_memory, "root"_a = "");

  nb::class_<Matrix>(m, "Matrix")
      .def_static("from_codes", &from_codes, "layout"_a, "codes_NK"_a, "scale_NG"_a,
                  "minimum_NG"_a = nb::none())
      .def_static("from_stored", &from_stored, "format"_a, "data"_a, "rows"_a, "columns"_a,
                  "scale_NG"_a = nb::none(), "ternary"_a = "t2", "minimum_NG"_a = nb::none(),
                  "zero_NG"_a = nb::none())
      .def_static("from_floats", &from_floats, "values_NK"_a)
      .def_prop_ro("layout", [](const Matrix& m) { return std::string(name_of(m.layout)); })
      .def_prop_ro("shape", [](const Matrix& m) { return nb::make_tuple(m.rows, m.columns); })
      .def_prop_ro("size_bytes", &Matrix::size_bytes)
      .def("rows", &rows, "index_T"_a);

  m.def("measure_read_bandwidth", &read_bandwidth, "threads"_a, "bytes"_a, "time_s"_a);
  m.def("measure_int8_peak", &int8_peak, "threads"_a, "time_s"_a);

  m.def("settle_weights", &settle_pages, "delay_s"_a,
        nb::call_guard<nb::gil_scoped_release>());
  m.def("faster_ternary", &faster_ternary_layout, "data"_a);
  m.def("quantize_i8", &quantize_i8, "x_TK"_a, "block"_a);
  m.def("quantize", &quantize_by, "x_TK"_a, "activation"_a, "parts"_a = 1, "input_scale"_a = 0.0f,
        "input_zero"_a = 0);
  m.def("layer_norm", &layer_norm, "x_TK"_a, "eps"_a, "parts"_a = 1);
  m.def("int_sums", &int_sums, "w"_a, "x_TK"_a);
  m.def("linear", &linear, "w"_a, "x_TK"_a, "activation"_a, "parts"_a = 1, "input_scale"_a = 0.0f,
        "input_zero"_a = 0, "planes"_a = 1);
  m.def("time_products", &time_products, "matrices"_a, "x_TK"_a, "activation"_a);
  m.def("exp", &elementwise<float, float, &Ops::exp>, "x_N"_a);
  m.def("hadamard", &hadamard, "x_TK"_a, "signs"_a = nb::none(), "transpose"_a = false);
  m.def("f32_to_f16", &elementwise<float, uint16_t, &Ops::f32_to_f16>, "x_N"_a);
  m.def("f16_to_f32", &elementwise<uint16_t, float, &Ops::f16_to_f32>, "x_N"_a);

  bind_training(m);
  bind_block_search(m);
  bind_columns(m);
  bind_recurrence(m);

  nb::class_<Memory>(m, "Memory")
      .def_prop_rw("length", &length, &set_length)
      .def_prop_ro("capacity", &Memory::capacity)
      .def_prop_ro("size_bytes", &Memory::size_bytes)
      .def("copy_prefix", &copy_prefix, "from_cache"_a, "n"_a);
  nb::class_<Cache, Memory>(m, "Cache").def_prop_ro("kv_bits", &Cache::kv_bits);
  nb::class_<State, Memory>(m, "State");

  nb::class_<AttentionOnly>(m, "Attention")
      .def(
          "__init__",
          [](AttentionOnly* self, size_t heads, size_t kv_heads, size_t head_dim, size_t capacity,
             int kv_bits, size_t window) {
            check_attention(heads, kv_heads, head_dim, capacity, kv_bits);
            new (self) AttentionOnly(heads, kv_heads, head_dim, capacity, kv_bits, window);
          },
          "heads"_a, "kv_heads"_a, "head_dim"_a, "capacity"_a, "kv_bits"_a, "window"_a = 0)
      .def_prop_ro("size_bytes", &AttentionOnly::size_bytes)
      .def("write", &AttentionOnly::write, "k_THD"_a, "v_THD"_a)
      .def("attend", &AttentionOnly::attend, "q_THD"_a);

  nb::class_<Decoder>(m, "Decoder")
      .def(
          "__init__",
          [](Decoder* self, nb::handle fields) { new (self) Decoder(shape_of(fields)); },
          "architecture"_a)
      .def("set_matrix", &set_matrix, "name"_a, "matrix"_a, "activation"_a = "fp",
           "norm"_a = nb::none(), "bias"_a = nb::none(), "hadamard"_a = nb::none(),
           "layer_norm"_a = false, "parts"_a = 1, "input_scale"_a = 0.0f, "input_zero"_a = 0,
           "planes"_a = 1)
      .def(
          "set_norm",
          [](Decoder& self, const std::string& name, In<float> weight) {
            std::vector<float> values = copy("weight", weight);
            nb::gil_scoped_release release;  // a lock is taken, whose holder may want the GIL
            self.set_norm(name, std::move(values));
          },
          "name"_a, "weight"_a)
      .def("finish", &Decoder::finish, nb::call_guard<nb::gil_scoped_release>())
      .def("new_cache", &new_cache, "capacity"_a, "kv_bits"_a, nb::keep_alive<0, 1>())
      .def("forward", &forward, "tokens_T"_a, "cache"_a, "logits"_a)
      .def("step", &step, "caches"_a, "tokens"_a, "logits"_a);
}
