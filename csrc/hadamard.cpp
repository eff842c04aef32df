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

// The prime whose field, or field of pairs, has q elements; 0 if there is none.
size_t prime_of(size_t q) {
  if (is_prime(q)) return q;
  for (size_t p = 3; p * p <= q; p += 2)
    if (p * p == q && is_prime(p)) return p;
  return 0;
}

bool is_paley_1(size_t m) { return m % 4 == 0 && is_prime(m - 1); }
bool is_paley_2(size_t m) { return m % 4 == 0 && (m / 2 - 1) % 4 == 1 && prime_of(m / 2 - 1); }

// The least number that is no square modulo an odd prime.
size_t non_square(size_t p) {
  for (size_t r = 2;; ++r) {
    bool square = false;
    for (size_t i = 1; i < p; ++i) square |= i * i % p == r;
    if (!square) return r;
  }
}

// Jacobsthal's matrix of the field of q elements: [i][j] = 1 where i - j is a square other than 0,
// -1 where it is none, 0 on the diagonal. With q = p^2, number a + p b is a + b w, and w^2 the
// least non-square.
std::vector<int> jacobsthal(size_t q) {
  const size_t p = prime_of(q), r = p < q ? non_square(p) : 0;
  std::vector<int> of(q, -1), matrix(q * q);
  of[0] = 0;
  for (size_t i = 1; i < q; ++i) {
    const size_t a = i % p, b = i / p;
    of[(a * a + r * b * b) % p + p * (2 * a * b % p)] = 1;
  }
  for (size_t i = 0; i < q; ++i)
    for (size_t j = 0; j < q; ++j)
      matrix[i * q + j] = of[(i % p + p - j % p) % p + p * ((i / p + p - j / p) % p)];
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

// Four circulant matrices of order p, prime, with A A^T + B B^T + C C^T + D D^T = 4 p I. Number
// root^k of a first row is 1 where bit k % classes of its union is set, number 0 always.
struct Cyclotomic {
  size_t p, root, classes;
  unsigned unions[4];
};

constexpr Cyclotomic kCyclotomic[] = {
    {23, 5, 11, {0x3c, 0x5f, 0x2ed, 0x571}},
    {29, 2, 14, {0x1fb8, 0x215f, 0x2c34, 0x2d2c}},
    {43, 3, 6, {0xb, 0xc, 0xd, 0xd}},
};

const Cyclotomic* cyclotomic_of(size_t m) {
  for (const Cyclotomic& c : kCyclotomic)
    if (4 * c.p == m) return &c;
  return nullptr;
}

// Goethals and Seidel's array of them. R turns the columns round:
//   [ A   B R   C R   D R ]    [-B R  A   D'R -C'R]    [-C R -D'R  A   B'R]    [-D R  C'R -B'R  A ]
std::vector<float> goethals_seidel(const Cyclotomic& c) {
  const size_t p = c.p, m = 4 * p;
  std::vector<int> row[4];
  for (int s = 0; s < 4; ++s) {
    row[s].assign(p, 1);
    for (size_t k = 0, at = 1; k < p - 1; ++k, at = at * c.root % p)
      row[s][at] = c.unions[s] >> k % c.classes & 1 ? 1 : -1;
  }
  constexpr int kSign[4][4] = {{1, 1, 1, 1}, {-1, 1, 1, -1}, {-1, -1, 1, 1}, {-1, 1, -1, 1}};
  std::vector<float> h(m * m);
  for (size_t y = 0; y < 4; ++y)
    for (size_t x = 0; x < 4; ++x)
      for (size_t i = 0; i < p; ++i)
        for (size_t j = 0; j < p; ++j) {
          const size_t at = x == y ? j + p - i : x && y ? i + j + 1 : 2 * p - 1 - i - j;
          h[(y * p + i) * m + x * p + j] = static_cast<float>(kSign[y][x] * row[x ^ y][at % p]);
        }
  return h;
}

bool has_matrix(size_t m) { return is_paley_1(m) || is_paley_2(m) || cyclotomic_of(m); }

std::vector<float> matrix_of(size_t m) {
  if (is_paley_1(m)) return paley_1(m);
  return is_paley_2(m) ? paley_2(m) : goethals_seidel(*cyclotomic_of(m));
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
    if (n % m || !has_matrix(m)) continue;
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
      signs_[i] = matrix_of(m);
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
