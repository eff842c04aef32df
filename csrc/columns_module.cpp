// The Python side of columns.h; see cpu.pyi for the contract.
#include "columns_module.h"

#include <string>

#include "columns.h"
#include "dispatch.h"
#include "ndarrays.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace onebit {
namespace {

template <class Array>
void check_block(const char* what, const Array& x) {
  if (x.ndim() != 2 || !x.shape(0) || x.shape(0) > kMostColumns)
    fail(std::string(what) + " must be 1 to " + std::to_string(kMostColumns) + " columns.");
}

ColumnGrid grid_of(const In<float>& scale, const In<float>* inverse, const In<float>& zero,
                   const In<int32_t>& group, float low, float high, size_t b, size_t N) {
  if (scale.ndim() != 2) fail("scale_GN must be a matrix.");
  const size_t G = scale.shape(0);
  check_shape("scale_GN", scale, G, N);
  check_shape("zero_GN", zero, G, N);
  if (inverse) check_shape("inverse_GN", *inverse, G, N);
  if (group.ndim() != 1 || group.shape(0) != b) fail("group_b must have a number for each column.");
  for (size_t j = 0; j < b; ++j)
    if (group.data()[j] < 0 || (size_t)group.data()[j] >= G) fail("group_b: there is no such group.");
  return {scale.data(), inverse ? inverse->data() : nullptr, zero.data(), group.data(), low, high};
}

void round(In<float> w, In<float> u, In<float> scale, In<float> zero, In<int32_t> group, float low,
           float high, Into<float> codes, Into<float> error, size_t threads) {
  check_block("w_bN", w);
  const size_t b = w.shape(0), N = w.shape(1);
  check_shape("U_bb", u, b, b);
  check_shape("codes_bN", codes, b, N);
  check_shape("error_bN", error, b, N);
  const ColumnGrid grid = grid_of(scale, nullptr, zero, group, low, high, b, N);
  const Ops& ops = active_ops();
  nb::gil_scoped_release release;
  round_columns(ops, w.data(), u.data(), grid, b, N, codes.data(), error.data(), threads);
}

void sweep(Into<float> value, In<float> pull, In<float> a, In<float> inverse_diagonal,
           In<float> scale, In<float> inverse, In<float> zero, In<int32_t> group, float low,
           float high, Into<float> change, size_t threads) {
  check_block("value_bN", value);
  const size_t b = value.shape(0), N = value.shape(1);
  check_shape("pull_bN", pull, b, N);
  check_shape("A_bb", a, b, b);
  check_shape("change_bN", change, b, N);
  if (inverse_diagonal.ndim() != 1 || inverse_diagonal.shape(0) != b)
    fail("inverse_diagonal_b must have a number for each column.");
  const ColumnGrid grid = grid_of(scale, &inverse, zero, group, low, high, b, N);
  const Ops& ops = active_ops();
  nb::gil_scoped_release release;
  sweep_columns(ops, value.data(), pull.data(), a.data(), inverse_diagonal.data(), grid, b, N,
                change.data(), threads);
}

}  // namespace

// What is written to is never converted: a copy would take the results.
void bind_columns(nb::module_& m) {
  m.def("round_columns", &round, "w_bN"_a, "U_bb"_a, "scale_GN"_a, "zero_GN"_a, "group_b"_a, "low"_a,
        "high"_a, "codes_bN"_a.noconvert(), "error_bN"_a.noconvert(), "threads"_a);
  m.def("sweep_columns", &sweep, "value_bN"_a.noconvert(), "pull_bN"_a, "A_bb"_a,
        "inverse_diagonal_b"_a, "scale_GN"_a, "inverse_GN"_a, "zero_GN"_a, "group_b"_a, "low"_a,
        "high"_a, "change_bN"_a.noconvert(), "threads"_a);
}

}  // namespace onebit
