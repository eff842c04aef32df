// The Python side of recurrence.h; see cpu.pyi for the contract.
#include "recurrence_module.h"

#include <nanobind/stl/optional.h>

#include <optional>
#include <string>

#include "dispatch.h"
#include "ndarrays.h"
#include "recurrence.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace onebit {
namespace {

using Given = In<float>;
using Results = Into<float>;

struct Sizes {
  size_t B, T, d;
};

Sizes sizes_of(const Given& f) {
  if (f.ndim() != 3 || !f.shape(0) || !f.shape(1) || !f.shape(2))
    fail("f_BTD must have three dimensions, none of them empty.");
  return {f.shape(0), f.shape(1), f.shape(2)};
}

// The array's floats; its shape is that of f, or without its tokens.
template <class Array>
auto* floats(const char* what, const Array& x, const Sizes& n, bool tokens = true) {
  const bool fits = tokens ? x.ndim() == 3 && x.shape(0) == n.B && x.shape(1) == n.T && x.shape(2) == n.d
                           : x.ndim() == 2 && x.shape(0) == n.B && x.shape(1) == n.d;
  if (!fits)
    fail(std::string(what) + " must be (" + std::to_string(n.B) + ", " +
         (tokens ? std::to_string(n.T) + ", " : "") + std::to_string(n.d) + ").");
  return x.data();
}
template <class Array>
auto floats(const char* what, const std::optional<Array>& x, const Sizes& n, bool tokens)
    -> decltype(x->data()) {
  return x ? floats(what, *x, n, tokens) : nullptr;
}

void forward(Given f, Given i, std::optional<Given> h0, Results h, Results last, size_t threads) {
  const Sizes n = sizes_of(f);
  const float* from = floats("i_BTD", i, n);
  const float* before = floats("h0_BD", h0, n, false);
  float* to = floats("h_BTD", h, n);
  float* end = floats("last_BD", last, n, false);
  const Ops& ops = active_ops();
  nb::gil_scoped_release release;
  recurrence(ops, n.B, n.T, n.d, f.data(), from, before, to, end, threads);
}

void backward(Given f, Given h, std::optional<Given> h0, std::optional<Given> dh,
              std::optional<Given> dlast, Results df, Results di, std::optional<Results> dh0,
              size_t threads) {
  const Sizes n = sizes_of(f);
  const float* states = floats("h_BTD", h, n);
  const float* before = floats("h0_BD", h0, n, false);
  const float* slope = floats("dh_BTD", dh, n, true);
  const float* slope_last = floats("dlast_BD", dlast, n, false);
  float* to_f = floats("df_BTD", df, n);
  float* to_i = floats("di_BTD", di, n);
  float* to_before = floats("dh0_BD", dh0, n, false);
  const Ops& ops = active_ops();
  nb::gil_scoped_release release;
  recurrence_backward(ops, n.B, n.T, n.d, f.data(), states, before, slope, slope_last, to_f, to_i,
                      to_before, threads);
}

}  // namespace

// What is written to is never converted: a copy would take the results.
void bind_recurrence(nb::module_& m) {
  m.def("recurrence", &forward, "f_BTD"_a, "i_BTD"_a, "h0_BD"_a.none(), "h_BTD"_a.noconvert(),
        "last_BD"_a.noconvert(), "threads"_a);
  m.def("recurrence_backward", &backward, "f_BTD"_a, "h_BTD"_a, "h0_BD"_a.none(), "dh_BTD"_a.none(),
        "dlast_BD"_a.none(), "df_BTD"_a.noconvert(), "di_BTD"_a.noconvert(),
        "dh0_BD"_a.noconvert().none(), "threads"_a);
}

}  // namespace onebit
