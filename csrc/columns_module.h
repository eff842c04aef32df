// Binds columns.h to Python.
#pragma once
#include <nanobind/nanobind.h>

namespace onebit {

void bind_columns(nanobind::module_& m);

}  // namespace onebit
