#include "hadamard.h"

#include <math.h>

#include <utility>

namespace onebit {
namespace {

constexpr size_t kLargestOrder = 256;  // an axis costs its order in additions for each number

bool is_prime(size_t n) {
  if (n < 2) return false;
  for (size_t i = 2; i * i <= n; ++i)
    if (n % i == 0) return false;
  return true;
}

bool is_paley_1(size_t m) { return m % 4 == 0 && is_prime(m - 1); }
bool is_paley_2(size_t m) { return m % 4 == 0 && (m / 2 - 1) % 4 == 1 && is_prime(m / 2 - 1); }

// Jacobsthal's matrix: [i][j] = 1 where i - j is a square other than 0 modulo q, -1 where it is
// none, 0 on the diagonal.
std::vector<int> jacobsthal(size_t q) {
  std::vector<int> of(q, -1), matrix(q * q);
  of[0] = 0;
  for (size_t i = 1; i < q; ++i) of[i * i % q] = 1;
  for (size_t i = 0; i < q; ++i)
    for (size_t j = 0; j < q; ++j) matrix[i * q + j] = of[(i + q - j) % q];
  return matrix;
}

// I: identity + S, S skew: zero corner, a row of 1, a column of -1, Jacobsthal.
std::vector<float> paley_1(size_t m) {
  const size_t q = m - 1;
  const std::vector<int> of = jacobsthal(q);
  std::vector<float> h(m * m);
  for (size_t i = 0; i < m; ++i)
    for (size_t j = 0; j < m; ++j) {
      const int s = i && j ? of[(i - 1) * q + j - 1] : j ? 1 : i ? -1 : 0;
      h[i * m + j] = static_cast<float>(s + (i == j));
    }
  return h;
}

// II: C symmetric: zero corner, row and column of 1, Jacobsthal. Each entry becomes 2 x 2:
// +-1 the matrix [1 1; 1 -1] with that sign, 0 the matrix [1 -1; -1 -1].
std::vector<float> paley_2(size_t m) {
  const size_t q = m / 2 - 1;
  const std::vector<int> of = jacobsthal(q);
  std::vector<float> h(m * m);
  for (size_t i = 0; i < m; ++i)
    for (size_t j = 0; j < m; ++j) {
      const size_t a = i / 2, b = j / 2;
      const int c = a && b ? of[(a - 1) * q + b - 1] : a == b ? 0 : 1;
      const bool low = i % 2 && j % 2, off = i % 2 != j % 2;
      h[i * m + j] = static_cast<float>(c ? (low ? -c : c) : (low || off ? -1 : 1));
    }
  return h;
}

void turn_over(std::vector<float>& h, size_t m) {
  for (size_t i = 0; i < m; ++i)
    for (size_t j = 0; j < i; ++j) std::swap(h[i * m + j], h[j * m + i]);
}

struct Orders {
  std::vector<size_t> axes;  // ascending
  size_t sum = 0;
};

// The orders, each at least `from`, whose product is n but for a power of two; false if there are
// none.
bool find_orders(size_t n, size_t from, size_t most, Orders* best) {
  if ((n & (n - 1)) == 0) {
    *best = {};
    return true;
  }
  bool found = false;
  for (size_t m = from; most && m <= kLargestOrder && m <= n; m += 8) {
    if (n % m || !(is_paley_1(m) || is_paley_2(m))) continue;
    Orders rest;
    if (!find_orders(n / m, m, most - 1, &rest)) continue;
    if (found && rest.sum + m >= best->sum) continue;
    rest.axes.insert(rest.axes.begin(), m);
    rest.sum += m;
    *best = rest;
    found = true;
  }
  return found;
}

}  // namespace

HadamardPlan::HadamardPlan(size_t n, bool transpose) {
  Orders orders;
  plan_.n = n;
  if (find_orders(n, 12, Hadamard::kMostAxes, &orders)) {
    plan_.size = plan_.power = n;
    for (size_t m : orders.axes) {
      const size_t i = plan_.axes++;
      signs_[i] = is_paley_1(m) ? paley_1(m) : paley_2(m);
      if (transpose) turn_over(signs_[i], m);
      plan_.order[i] = m;
      plan_.signs[i] = signs_[i].data();
      plan_.power /= m;
    }
  } else {
    plan_.size = plan_.power = n & (~n + 1);
  }
  plan_.scale = static_cast<float>(1.0 / sqrt(static_cast<double>(plan_.size)));
}

}  // namespace onebit
