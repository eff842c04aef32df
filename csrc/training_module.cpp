// The Python side of training.h; see cpu.pyi for the contract.
#include "training_module.h"

#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/unique_ptr.h>

#include <memory>
#include <string>

#include "dispatch.h"
#include "ndarrays.h"
#include "training.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace onebit {
namespace {

using Any = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;
using IntoAny = nb::ndarray<nb::c_contig, nb::device::cpu>;

template <class Array>
void check_matrix(const char* what, const Array& x) {
  if (x.ndim() != 2 || !x.shape(1) || x.shape(1) > kMaxColumns)
    fail(std::string(what) + " must be a matrix of 1 to 131071 columns.");
}

template <class Array>
bool is_bf16(const char* what, const Array& x) {
  if (x.dtype() == nb::dtype<uint16_t>()) return true;
  if (x.dtype() != nb::dtype<float>())
    fail(std::string(what) + " must be float32, or the bits of bfloat16 as uint16.");
  return false;
}

size_t scales_of(const In<float>& scale, size_t rows) {
  if (scale.size() != 1 && scale.size() != rows)
    fail("scale has " + std::to_string(scale.size()) + " numbers; expected 1 or " +
         std::to_string(rows) + ".");
  return scale.size();
}

std::unique_ptr<TokenCodes> quantized(Any x, Into<int8_t> codes, Into<float> scale,
                                      size_t threads) {
  check_matrix("x_TK", x);
  const size_t T = x.shape(0), K = x.shape(1);
  check_shape("codes_TK", codes, T, K);
  if (scale.size() != T) fail("scale_T must have a number for each token.");
  const Floats floats{x.data(), is_bf16("x_TK", x)};
  const Ops& ops = active_ops();
  nb::gil_scoped_release release;
  auto made = std::make_unique<TokenCodes>(T, K);
  made->quantize(ops, floats, codes.data(), scale.data(), threads);
  return made;
}

std::unique_ptr<TokenCodes> taken(In<int8_t> codes, In<float> scale, size_t threads) {
  check_matrix("codes_TK", codes);
  const size_t T = codes.shape(0);
  if (scale.size() != T) fail("scale_T must have a number for each token.");
  nb::gil_scoped_release release;
  auto made = std::make_unique<TokenCodes>(T, codes.shape(1));
  made->take(codes.data(), scale.data(), threads);
  return made;
}

void product(const TokenCodes& x, const Matrix& m, IntoAny y, size_t threads) {
  if (!m.has_codes() || m.layout == Layout::t1_6 || m.groups != 1 || m.has_minimum() ||
      m.factor_bytes != 4)
    fail("product: the matrix must have codes, one scale a row and no minimum.");
  if (m.columns != x.columns())
    fail("product: the matrix has " + std::to_string(m.columns) + " columns, the input " +
         std::to_string(x.columns()) + ".");
  check_shape("y_TN", y, x.tokens(), m.rows);
  const FloatsOut out{y.data(), is_bf16("y_TN", y)};
  const Ops& ops = active_ops();
  nb::gil_scoped_release release;
  x.product(ops, m, out, threads);
}

std::shared_ptr<Matrix> ternarize(In<float> w, In<float> scale, Into<int8_t> codes,
                                  size_t threads) {
  check_matrix("w_NK", w);
  const size_t N = w.shape(0), K = w.shape(1), scales = scales_of(scale, N);
  if (!N) fail("w_NK is empty.");
  check_shape("codes_NK", codes, N, K);
  const Ops& ops = active_ops();
  nb::gil_scoped_release release;
  return std::make_shared<Matrix>(
      ternary_matrix(ops, w.data(), N, K, scale.data(), scales, codes.data(), threads));
}

void dequantize(In<int8_t> codes, In<float> scale, IntoAny y, size_t threads) {
  check_matrix("codes", codes);
  const size_t rows = codes.shape(0), K = codes.shape(1), scales = scales_of(scale, rows);
  check_shape("y", y, rows, K);
  const FloatsOut out{y.data(), is_bf16("y", y)};
  const Ops& ops = active_ops();
  nb::gil_scoped_release release;
  dequantize_rows(ops, codes.data(), rows, K, scale.data(), scales, out, threads);
}

void check_weight(const In<float>& w, size_t K) {
  if (w.ndim() != 1 || w.shape(0) != K) fail("w_K must have a number for each column.");
}

void rms_norm(Any x, In<float> w, float eps, IntoAny y, Into<float> r, size_t threads) {
  check_matrix("x_TK", x);
  const size_t T = x.shape(0), K = x.shape(1);
  const bool bf16 = is_bf16("x_TK", x);
  check_weight(w, K);
  check_shape("y_TK", y, T, K);
  if (is_bf16("y_TK", y) != bf16) fail("x_TK and y_TK must be of one dtype.");
  if (r.size() != T) fail("r_T must have a number for each token.");
  const Ops& ops = active_ops();
  nb::gil_scoped_release release;
  rms_norm_rows(ops, {x.data(), bf16}, w.data(), eps, T, K, {y.data(), bf16}, r.data(), threads);
}

void rms_norm_gradients(Any x, In<float> w, In<float> r, Any dy, IntoAny dx, Into<float> dw,
                        size_t threads) {
  check_matrix("x_TK", x);
  const size_t T = x.shape(0), K = x.shape(1);
  const bool bf16 = is_bf16("x_TK", x);
  check_weight(w, K);
  check_shape("dy_TK", dy, T, K);
  check_shape("dx_TK", dx, T, K);
  if (is_bf16("dy_TK", dy) != bf16 || is_bf16("dx_TK", dx) != bf16)
    fail("x_TK, dy_TK and dx_TK must be of one dtype.");
  if (r.size() != T || dw.size() != K) fail("r_T or dw_K is of another size.");
  const Ops& ops = active_ops();
  nb::gil_scoped_release release;
  rms_norm_backward(ops, {x.data(), bf16}, w.data(), r.data(), {dy.data(), bf16}, T, K,
                    {dx.data(), bf16}, dw.data(), threads);
}

}  // namespace

// What is written to is never converted: a copy would take the results.
void bind_training(nb::module_& m) {
  nb::class_<TokenCodes>(m, "TokenCodes")
      .def_static("quantize", &quantized, "x_TK"_a, "codes_TK"_a.noconvert(),
                  "scale_T"_a.noconvert(), "threads"_a)
      .def_static("of_codes", &taken, "codes_TK"_a, "scale_T"_a, "threads"_a)
      .def("product", &product, "w"_a, "y_TN"_a.noconvert(), "threads"_a);
  m.def("ternarize", &ternarize, "w_NK"_a, "scale"_a, "codes_NK"_a.noconvert(), "threads"_a);
  m.def("dequantize_rows", &dequantize, "codes"_a, "scale"_a, "y"_a.noconvert(), "threads"_a);
  m.def("rms_norm", &rms_norm, "x_TK"_a, "w_K"_a, "eps"_a, "y_TK"_a.noconvert(),
        "r_T"_a.noconvert(), "threads"_a);
  m.def("rms_norm_backward", &rms_norm_gradients, "x_TK"_a, "w_K"_a, "r_T"_a, "dy_TK"_a,
        "dx_TK"_a.noconvert(), "dw_K"_a.noconvert(), "threads"_a);
}

}  // namespace onebit
