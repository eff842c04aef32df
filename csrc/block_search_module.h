// Binds block_search.h to Python.
#pragma once
#include <nanobind/nanobind.h>

namespace onebit {

void bind_block_search(nanobind::module_& m);

}  // namespace onebit
