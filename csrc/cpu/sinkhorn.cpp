// Sinkhorn on the CPU. Only the scalings v of the K columns are iterated.
//
// The first sweep keeps exp(S / eps) 2^-shift as tiles [16 rows][class][row]; with u_i = 1 / sum_k exp_ik v_k every
// later one needs them once: u_i and the next column sums c_k = sum_i exp_ik u_i come from the same pass. Chunks of
// rows have shifts of their own, which u undoes, so no sweep is spent on the largest score. Sums are float32 inside a
// chunk; the sums of the chunks are added in order in float64, so the result does not depend on the number of threads.
// A problem whose spread is too large for float32, or whose scores are float64, is solved by cpu/sinkhorn_wide.h.
#include <tuple>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "cpu/parallel.h"
#include "cpu/products.h"
#include "cpu/row_tile.h"
#include "cpu/scaled_exp.h"
#include "cpu/sinkhorn_wide.h"
#include "tensors.h"

namespace fastuda {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Powers of two between the largest and the smallest of exp(S / eps) and of the shares, together: all products of exp,
// u and v stay far from float32's ends.
constexpr double kWidestSpread = 92;
// Of a shift: exponents that float32 still splits into a whole part and a fraction of 2^-24.
constexpr double kLargestExponent = 1 << 20;
constexpr int kGroup = 4;

struct Narrow {
  const Sinkhorn& p;
  float* tiles;     // (batch, blocks, classes, 16)
  double* partial;  // (batch, chunks, classes)
  Range* ranges;    // (batch, chunks)
  float* v;         // (batch, classes)
  const uint8_t* wide;
  float scale_high, scale_low;  // 1 / (eps ln 2)

  float* tiles_of(int64_t b, int64_t block) const {
    return tiles + (b * p.blocks() + block) * p.classes * kBlockRows;
  }
};

// The sum of the lanes in float64, added as a tree so that no rounding error passes through many additions.
FASTUDA_INLINE double sum_lanes(const Vec<float>& x) {
  double pair[8];
  for (int i = 0; i < 8; ++i) pair[i] = static_cast<double>(x[i]) + x[i + 8];
  return ((pair[0] + pair[1]) + (pair[2] + pair[3])) + ((pair[4] + pair[5]) + (pair[6] + pair[7]));
}

// 1 in the first `count` lanes, 0 in those that repeat a row.
FASTUDA_INLINE Vec<float> lane_weights(int64_t count) {
  Vec<float> weight;
  for (int i = 0; i < kLanes<float>; ++i) weight[i] = i < count ? 1.0f : 0.0f;
  return weight;
}

// Loads `count` rows as kBlocks tiles, takes their exponentials and adds them to the classes' sums.
template <int kBlocks, Isa isa>
FASTUDA_INLINE void exp_blocks(
    const Sinkhorn& p, const RowSource& rows, int64_t first, int64_t count, const Vec<float>& weight, float* tiles,
    float* stage, ScaledExp<isa>& exp, Vec<float>* sums) {
  const int64_t step = p.classes * kBlockRows, size = rows.row_stride * bytes_of(rows.type);
  const int64_t bytes = kBlocks * kBlockRows * size;
  Ahead ahead{
      reinterpret_cast<uintptr_t>(rows.data) + first * size + 2 * bytes, p.class_stride == 1 ? bytes / 64 : 0};
#pragma GCC unroll 1
  for (int j = 0; j < kBlocks; ++j)
    load_rows<isa>(rows, first + j * kBlockRows, p.classes, count, stage, tiles + j * step);
  for (int64_t k = 0; k < p.classes; ++k) {
    Vec<float> sum = sums[k], x;
#pragma GCC unroll 4
    for (int j = 0; j < kBlocks; ++j) {
      float* at = tiles + j * step + k * kBlockRows;
      load(at, x);
      x = exp(x);
      store(x, at);
      ahead.next();
      sum += kBlocks == 1 ? x * weight : x;
    }
    sums[k] = sum;
  }
}

template <Isa isa>
FASTUDA_INLINE void first_sweep(const Narrow& n, int64_t b, int64_t chunk, Vec<float>* sums, float* stage) {
  const Sinkhorn& p = n.p;
  const int64_t size = bytes_of(p.type), at = b * p.batch_stride + chunk * kChunkRows * p.row_stride;
  const RowSource source{static_cast<const char*>(p.scores) + at * size, p.type, p.row_stride, p.class_stride};
  const int64_t rows = p.end_of(chunk) - chunk * kChunkRows, whole = rows / kBlockRows, step = p.classes * kBlockRows;
  float* tiles = n.tiles_of(b, chunk * (kChunkRows / kBlockRows));
  float score = 0;
  with_type<float>(p.type, [&]<class T>() FASTUDA_INLINED {
    score = static_cast<float>(*static_cast<const T*>(source.data));
  });
  // The shift may be any score of the chunk: either all other scores are within kWidestSpread of it, or the problem is
  // solved in float64 anyway.
  const double shift = std::rint(static_cast<double>(score) * n.scale_high);
  ScaledExp<isa> exp{n.scale_high, n.scale_low, static_cast<float>(0x1.8p23 - shift)};
  if (!(std::fabs(shift) <= kLargestExponent)) {
    n.ranges[b * p.chunks() + chunk] = {shift, NAN, NAN};
    return;
  }
  for (int64_t k = 0; k < p.classes; ++k) sums[k] = Vec<float>{};
  const Vec<float> one = Vec<float>{} + 1.0f;
  int64_t i = 0;
  for (; i + kGroup <= whole; i += kGroup)
    exp_blocks<kGroup>(p, source, i * kBlockRows, kBlockRows, one, tiles + i * step, stage, exp, sums);
  for (; i * kBlockRows < rows; ++i) {
    const int64_t count = std::min(kBlockRows, rows - i * kBlockRows);
    exp_blocks<1>(p, source, i * kBlockRows, count, lane_weights(count), tiles + i * step, stage, exp, sums);
  }
  n.ranges[b * p.chunks() + chunk] = exp.range(shift);
  double* partial = n.partial + (b * p.chunks() + chunk) * p.classes;
  for (int64_t k = 0; k < p.classes; ++k) partial[k] = sum_lanes(sums[k]);
}

// sums[k] += exp_ik u_i of kBlocks blocks, u_i = weight / sum_k exp_ik v_k.
template <int kBlocks>
FASTUDA_INLINE void add_blocks(
    const float* tiles, int64_t classes, const float* v, const Vec<float>& weight, Vec<float>* sums) {
  const int64_t step = classes * kBlockRows;
  Vec<float> u[kBlocks], x;
  for (int j = 0; j < kBlocks; ++j) u[j] = Vec<float>{};
  for (int64_t k = 0; k < classes; ++k)
#pragma GCC unroll 8
    for (int j = 0; j < kBlocks; ++j) {
      load(tiles + j * step + k * kBlockRows, x);
      u[j] += x * v[k];
    }
  for (int j = 0; j < kBlocks; ++j) u[j] = weight / u[j];
  for (int64_t k = 0; k < classes; ++k) {
    Vec<float> sum = sums[k];
#pragma GCC unroll 8
    for (int j = 0; j < kBlocks; ++j) {
      load(tiles + j * step + k * kBlockRows, x);
      sum += x * u[j];
    }
    sums[k] = sum;
  }
}

FASTUDA_INLINE void next_sweep(const Narrow& n, int64_t b, int64_t chunk, Vec<float>* sums) {
  const Sinkhorn& p = n.p;
  const int64_t rows = p.end_of(chunk) - chunk * kChunkRows, whole = rows / kBlockRows;
  const float* tiles = n.tiles_of(b, chunk * (kChunkRows / kBlockRows));
  const float* v = n.v + b * p.classes;
  const Vec<float> one = Vec<float>{} + 1.0f;
  for (int64_t k = 0; k < p.classes; ++k) sums[k] = Vec<float>{};
  int64_t i = 0;
  for (; i + kGroup <= whole; i += kGroup)
    add_blocks<kGroup>(tiles + i * p.classes * kBlockRows, p.classes, v, one, sums);
  for (; i * kBlockRows < rows; ++i) {
    const Vec<float> weight = lane_weights(std::min(kBlockRows, rows - i * kBlockRows));
    add_blocks<1>(tiles + i * p.classes * kBlockRows, p.classes, v, weight, sums);
  }
  double* partial = n.partial + (b * p.chunks() + chunk) * p.classes;
  for (int64_t k = 0; k < p.classes; ++k) partial[k] = sum_lanes(sums[k]);
}

// Rows of Q that sum to 1, of one block; those before the current rows are left out.
FASTUDA_INLINE void write_block(const Narrow& n, int64_t b, int64_t block, float* stage) {
  const Sinkhorn& p = n.p;
  const float *tile = n.tiles_of(b, block), *v = n.v + b * p.classes;
  Vec<float> total = {}, x;
  for (int64_t k = 0; k < p.classes; ++k) {
    load(tile + k * kBlockRows, x);
    x *= v[k];
    total += x;
    store(x, stage + k * kBlockRows);
  }
  const Vec<float> u = 1.0f / total;
  for (int64_t k = 0; k < p.classes; ++k) {
    load(stage + k * kBlockRows, x);
    store(x *= u, stage + k * kBlockRows);
  }
  const int64_t skipped = p.rows - p.current, row = block * kBlockRows;
  const int64_t begin = std::max(row, skipped), end = std::min(row + kBlockRows, p.rows);
  float* to = static_cast<float*>(p.out) + (b * p.current + begin - skipped) * p.classes;
  if (end - begin == kBlockRows && p.classes >= 4) return tile_to_rows(stage, p.classes, to, p.classes);
  for (int64_t i = begin - row; i < end - row; ++i)
    for (int64_t k = 0; k < p.classes; ++k) *to++ = stage[k * kBlockRows + i];
}

enum class Step { first, next, write };

// Units [begin, end) of all problems: chunks, or blocks of current rows.
template <Isa isa, Step step>
FASTUDA_INLINE void run_units(const Narrow& n, int64_t begin, int64_t end) {
  const Sinkhorn& p = n.p;
  const int64_t first_block = (p.rows - p.current) / kBlockRows;
  const int64_t units = step == Step::write ? p.blocks() - first_block : p.chunks();
  Buffer<float> stage((p.classes + kBlockRows) * kBlockRows), space(p.classes * kBlockRows);
  Vec<float>* sums = reinterpret_cast<Vec<float>*>(space.data());
  for (int64_t i = begin; i < end; ++i) {
    const int64_t b = i / units, unit = i % units;
    if constexpr (step == Step::first) {
      first_sweep<isa>(n, b, unit, sums, stage.data());
    } else if (!n.wide[b]) {
      if constexpr (step == Step::next) next_sweep(n, b, unit, sums);
      else write_block(n, b, first_block + unit, stage.data());
    }
  }
}

template <Step step>
void run_step(const Narrow& n, int64_t units, int64_t grain) {
  parallel<float>(units, grain, [&]<Isa isa>(int64_t begin, int64_t end) FASTUDA_INLINED {
    run_units<isa, step>(n, begin, end);
  });
}

// log2(largest share / smallest positive share); NaN if there is none.
double share_ratio(const double* shares, int64_t classes) {
  double low = std::numeric_limits<double>::infinity(), high = 0;
  for (int64_t k = 0; k < classes; ++k) {
    if (!(shares[k] >= 0)) return std::numeric_limits<double>::quiet_NaN();
    if (shares[k] > 0) low = std::min(low, shares[k]);
    high = std::max(high, shares[k]);
  }
  return high > 0 ? std::log2(high / low) : std::numeric_limits<double>::quiet_NaN();
}

bool is_wide(const Narrow& n, int64_t b) {
  const Range* ranges = n.ranges + b * n.p.chunks();
  double low = ranges[0].lowest(), high = ranges[0].highest(), ratio = share_ratio(n.p.shares_of(b), n.p.classes);
  for (int64_t i = 0; i < n.p.chunks(); ++i) {
    if (std::isnan(ranges[i].low)) return true;
    low = std::min(low, ranges[i].lowest());
    high = std::max(high, ranges[i].highest());
  }
  return !(high - low + ratio <= kWidestSpread);
}

// v = r / c from the chunks' sums in order, the largest scaled to 1. The first sums are in units of their shifts.
void rescale(const Narrow& n, int64_t b, bool first) {
  const Sinkhorn& p = n.p;
  const int64_t chunks = p.chunks();
  const Range* ranges = n.ranges + b * chunks;
  double top = ranges[0].shift, largest = 0;
  for (int64_t i = 1; i < chunks; ++i) top = std::max(top, ranges[i].shift);
  std::vector<double> sums(p.classes);
  for (int64_t i = 0; i < chunks; ++i) {
    const double unit = first ? std::exp2(ranges[i].shift - top) : 1;
    const double* partial = n.partial + (b * chunks + i) * p.classes;
    for (int64_t k = 0; k < p.classes; ++k) sums[k] += unit * partial[k];
  }
  for (int64_t k = 0; k < p.classes; ++k) {
    sums[k] = p.shares_of(b)[k] / sums[k];
    largest = std::max(largest, sums[k]);
  }
  for (int64_t k = 0; k < p.classes; ++k) n.v[b * p.classes + k] = static_cast<float>(sums[k] / largest);
}

// Solves the problems whose spread float32 holds, and marks the others in `wide`.
void run_narrow(const Sinkhorn& p, const Tensor& like, std::vector<uint8_t>& wide) {
  Tensor tiles = torch::stable::new_empty(
      like, {p.batch * p.blocks() * kBlockRows * p.classes}, ScalarType::Float);
  std::vector<double> partial(p.batch * p.chunks() * p.classes);
  std::vector<Range> ranges(p.batch * p.chunks());
  std::vector<float> v(p.batch * p.classes);
  const double scale = 1 / (p.epsilon * 0.693147180559945309417);
  const float high = static_cast<float>(scale), low = static_cast<float>(scale - high);
  const Narrow n{
      p, static_cast<float*>(tiles.mutable_data_ptr()), partial.data(), ranges.data(), v.data(), wide.data(), high,
      low};
  run_step<Step::first>(n, p.batch * p.chunks(), 1);
  for (int64_t b = 0; b < p.batch; ++b) wide[b] = is_wide(n, b);
  for (int64_t round = 0; round < p.iterations; ++round) {
    if (round > 0) run_step<Step::next>(n, p.batch * p.chunks(), 1);
    for (int64_t b = 0; b < p.batch; ++b)
      if (!wide[b]) rescale(n, b, round == 0);
  }
  run_step<Step::write>(n, p.batch * (p.blocks() - (p.rows - p.current) / kBlockRows), 8);
}

void run_wide(const Sinkhorn& p, int64_t b) {
  WideSinkhorn problem(p, b);
  for (int64_t round = 0; round < p.iterations; ++round) {
    torch::stable::parallel_for(0, p.chunks(), 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) round == 0 ? problem.first(i) : problem.next(i);
    });
    problem.scale(round == 0);
  }
  torch::stable::parallel_for(0, p.current, 64, [&](int64_t begin, int64_t end) {
    with_sums(p.type, [&]<class Out>() { problem.write<Out>(begin, end); });
  });
}

void run(const Sinkhorn& p, const Tensor& like) {
  std::vector<uint8_t> wide(p.batch, 1);
  if (p.type != ScalarType::Double) run_narrow(p, like, wide);
  for (int64_t b = 0; b < p.batch; ++b)
    if (wide[b]) run_wide(p, b);
}

std::vector<double> read_shares(const Tensor& marginal) {
  const int64_t batch = marginal.size(0), classes = marginal.size(1);
  std::vector<double> shares(batch * classes);
  const bool wide = is_double(marginal, "marginal");
  for (int64_t i = 0; i < batch * classes; ++i) {
    const int64_t at = i / classes * marginal.stride(0) + i % classes * marginal.stride(1);
    shares[i] = wide ? static_cast<const double*>(marginal.const_data_ptr())[at]
                     : static_cast<const float*>(marginal.const_data_ptr())[at];
  }
  return shares;
}

Tensor sinkhorn(const Tensor& scores, const Tensor& marginal, double epsilon, int64_t iterations, int64_t current) {
  const ScalarType type = scores.scalar_type();
  check_numbers(scores, "scores");
  STD_TORCH_CHECK(scores.dim() == 3 && marginal.dim() == 2, "scores must be (B, N, K) and marginal (B, K)");
  const int64_t batch = scores.size(0), rows = scores.size(1), classes = scores.size(2);
  STD_TORCH_CHECK(marginal.size(0) == batch && marginal.size(1) == classes, "marginal must be (B, K)");
  STD_TORCH_CHECK(
      epsilon > 0 && iterations >= 1 && 0 <= current && current <= rows,
      "epsilon must be positive, iterations at least 1 and current between 0 and N");
  Tensor out = torch::stable::new_empty(scores, {batch, current, classes}, sum_type(type));
  if (batch == 0 || current == 0 || classes == 0) return out;
  const std::vector<double> shares = read_shares(marginal);
  const Sinkhorn p{scores.const_data_ptr(), type, batch, rows, classes, scores.stride(0), scores.stride(1),
                   scores.stride(2), epsilon, iterations, current, shares.data(), out.mutable_data_ptr()};
  run(p, scores);
  return out;
}

}  // namespace
}  // namespace fastuda

STABLE_TORCH_LIBRARY_IMPL(fastuda, CPU, m) { m.impl("sinkhorn", TORCH_BOX(&fastuda::sinkhorn)); }
