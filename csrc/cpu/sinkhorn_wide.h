// The problems of sinkhorn and how their rows are divided, and the solution in float64 for any spread of the scores.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "cpu/simd.h"

namespace fastuda {

constexpr int64_t kBlockRows = 16;   // the lanes of a vector
constexpr int64_t kChunkRows = 512;  // fixed, so that the order of every sum is
constexpr double kLogZero = -std::numeric_limits<double>::infinity();

// `batch` independent problems. A chunk is some rows of one problem.
struct Sinkhorn {
  const void* scores;
  torch::headeronly::ScalarType type;
  int64_t batch, rows, classes;
  int64_t batch_stride, row_stride, class_stride;
  double epsilon;
  int64_t iterations, current;
  const double* shares;  // (batch, classes)
  void* out;             // (batch, current, classes)

  int64_t chunks() const { return (rows + kChunkRows - 1) / kChunkRows; }
  int64_t blocks() const { return (rows + kBlockRows - 1) / kBlockRows; }
  int64_t end_of(int64_t chunk) const { return std::min(rows, (chunk + 1) * kChunkRows); }
  const double* shares_of(int64_t b) const { return shares + b * classes; }
};

// Solves a problem of any spread, in float64 and in the log domain, with one exponential for each score and sweep and
// without a copy of the scores.
//
// After the first round the classes' sums are taken of P, which is Q with its rows scaled to sum 1:
// v_k <- v_k r_k / sum_i P_ik. A class never vanishes: its column of Q sums to r_k, and scaling the rows, none of
// which sums to more than sum r = 1, makes no entry smaller. Only the first round needs the column's own maximum.
struct WideSinkhorn {
  const Sinkhorn& p;
  int64_t b;  // the problem
  std::vector<double> log_v, partial, tops;

  WideSinkhorn(const Sinkhorn& problem, int64_t index) : p(problem), b(index), log_v(p.classes) {
    partial.resize(p.chunks() * p.classes);
    tops.resize(partial.size());
  }

  // x[k] = S_ik / eps.
  void read(int64_t row, double* x) const {
    const int64_t first = b * p.batch_stride + row * p.row_stride;
    const auto read_as = [&]<class T>() {
      const T* from = static_cast<const T*>(p.scores) + first;
      for (int64_t k = 0; k < p.classes; ++k) x[k] = static_cast<double>(from[k * p.class_stride]) / p.epsilon;
    };
    if (p.type == torch::headeronly::ScalarType::Double) read_as.template operator()<double>();
    else with_type<float>(p.type, read_as);
  }

  // x <- row of P; false for a row that no class may take.
  bool normalise(double* x) const {
    double top = kLogZero, total = 0;
    for (int64_t k = 0; k < p.classes; ++k) {
      x[k] += log_v[k];
      top = x[k] <= top ? top : x[k];
    }
    if (top == kLogZero) return false;
    for (int64_t k = 0; k < p.classes; ++k) total += x[k] = std::exp(x[k] - top);
    for (int64_t k = 0; k < p.classes; ++k) x[k] /= total;
    return true;
  }

  // The chunk's sum of exp(S / eps) of each class, as its largest exponent and the sum relative to that.
  void first(int64_t chunk) {
    double *top = tops.data() + chunk * p.classes, *sum = partial.data() + chunk * p.classes;
    std::vector<double> x(p.classes);
    std::fill(top, top + p.classes, kLogZero);
    std::fill(sum, sum + p.classes, 0.0);
    for (int64_t row = chunk * kChunkRows; row < p.end_of(chunk); ++row) {
      read(row, x.data());
      for (int64_t k = 0; k < p.classes; ++k) top[k] = x[k] <= top[k] ? top[k] : x[k];
    }
    for (int64_t row = chunk * kChunkRows; row < p.end_of(chunk); ++row) {
      read(row, x.data());
      for (int64_t k = 0; k < p.classes; ++k) sum[k] += relative(x[k], top[k]);
    }
  }

  // The chunk's sum of P of each class.
  void next(int64_t chunk) {
    double* sum = partial.data() + chunk * p.classes;
    std::vector<double> x(p.classes);
    std::fill(sum, sum + p.classes, 0.0);
    for (int64_t row = chunk * kChunkRows; row < p.end_of(chunk); ++row) {
      read(row, x.data());
      if (!normalise(x.data())) continue;
      for (int64_t k = 0; k < p.classes; ++k) sum[k] += x[k];
    }
  }

  // log v from the chunks' sums, added in order.
  void scale(bool is_first) {
    const int64_t chunks = p.chunks();
    for (int64_t k = 0; k < p.classes; ++k) {
      double top = is_first ? kLogZero : -log_v[k], total = 0;
      for (int64_t i = 0; is_first && i < chunks; ++i) {
        const double other = tops[i * p.classes + k];
        top = other <= top ? top : other;
      }
      for (int64_t i = 0; i < chunks; ++i)
        total += partial[i * p.classes + k] * (is_first ? relative(tops[i * p.classes + k], top) : 1);
      // A class without a share or without mass stays at zero.
      const double log_sum = std::log(total) + top;
      log_v[k] = total == 0 ? kLogZero : std::log(p.shares_of(b)[k]) - log_sum;
    }
  }

  template <class Out>
  void write(int64_t begin, int64_t end) const {
    const int64_t skipped = p.rows - p.current;
    std::vector<double> x(p.classes);
    for (int64_t row = begin; row < end; ++row) {
      read(skipped + row, x.data());
      if (!normalise(x.data())) std::fill(x.begin(), x.end(), 0.0);
      Out* to = static_cast<Out*>(p.out) + (b * p.current + row) * p.classes;
      for (int64_t k = 0; k < p.classes; ++k) to[k] = static_cast<Out>(x[k]);
    }
  }

 private:
  // exp(x - top), 0 of nothing.
  static double relative(double x, double top) {
    return x == kLogZero ? 0 : std::exp(x - top);
  }
};

}  // namespace fastuda
