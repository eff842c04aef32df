// The Python side of block_search.h; see cpu.pyi for the contract.
#include "block_search_module.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <optional>
#include <string>

#include "block_search.h"
#include "dispatch.h"
#include "ndarrays.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace onebit {
namespace {

void round_to(const std::string& name, In<float> w, std::optional<In<float>> h, Into<int8_t> codes,
              Into<float> scale, std::optional<Into<float>> minimum, size_t threads) {
  const BlockFormat* format = block_format(name.c_str());
  if (!format) fail(name + " is no block format that is searched for.");
  if (w.ndim() != 2 || !w.shape(1) || w.shape(1) % format->block())
    fail("w_NK must be a matrix whose columns are a multiple of " +
         std::to_string(format->block()) + ".");
  const size_t N = w.shape(0), K = w.shape(1), G = K / format->group;
  if (h && (h->ndim() != 1 || h->shape(0) != K)) fail("h_K must have a number for each column.");
  check_shape("codes_NK", codes, N, K);
  check_shape("scale_NG", scale, N, G);
  if (minimum.has_value() != format->has_minimum)
    fail(name + (format->has_minimum ? " has a minimum." : " has no minimum."));
  if (minimum) check_shape("minimum_NG", *minimum, N, G);
  const Ops& ops = active_ops();
  const float* weighed = h ? h->data() : nullptr;
  float* low = minimum ? minimum->data() : nullptr;
  nb::gil_scoped_release release;
  round_to_blocks(ops, *format, w.data(), weighed, N, K, codes.data(), scale.data(), low, threads);
}

}  // namespace

// What is written to is never converted: a copy would take the results.
void bind_block_search(nb::module_& m) {
  m.def("round_to_blocks", &round_to, "format"_a, "w_NK"_a, "h_K"_a.none(),
        "codes_NK"_a.noconvert(), "scale_NG"_a.noconvert(), "minimum_NG"_a.noconvert().none(),
        "threads"_a);
}

}  // namespace onebit
