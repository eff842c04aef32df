// Binds recurrence.h to Python.
#pragma once
#include <nanobind/nanobind.h>

namespace onebit {

void bind_recurrence(nanobind::module_& m);

}  // namespace onebit
