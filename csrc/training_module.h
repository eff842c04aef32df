// Binds training.h to Python.
#pragma once
#include <nanobind/nanobind.h>

namespace onebit {

void bind_training(nanobind::module_& m);

}  // namespace onebit
