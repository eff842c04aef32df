// Arrays as the Python side of a kernel takes them, and what it says of those it refuses.
#pragma once
#include <nanobind/ndarray.h>

#include <stdexcept>
#include <string>

namespace onebit {

template <class T>
using In = nanobind::ndarray<const T, nanobind::c_contig, nanobind::device::cpu>;
template <class T>
using Into = nanobind::ndarray<T, nanobind::c_contig, nanobind::device::cpu>;

// ValueError in Python.
[[noreturn]] inline void fail(const std::string& message) { throw std::invalid_argument(message); }

template <class Array>
void check_shape(const char* what, const Array& x, size_t rows, size_t columns) {
  if (x.ndim() != 2 || x.shape(0) != rows || x.shape(1) != columns)
    fail(std::string(what) + " must be (" + std::to_string(rows) + ", " + std::to_string(columns) +
         ").");
}

}  // namespace onebit
