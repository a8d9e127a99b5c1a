// Divergences between two softmaxes on a GPU, pixel by pixel, and their gradients.
//
// With x = (a - max a) / T, y the same of the other and d = x - y, the normalisers' logarithms cancel in nearly all
// that is wanted: after the maxima one sweep finds both normalisers and the means of d under both softmaxes. KL(p || q)
// + KL(q || p) is the difference of these means, but summed as (p - q)(d - mean d), since nearly equal softmaxes have
// nearly equal means.
//
// Four lanes share a pixel, a class apart: a warp reads 8 neighbouring pixels, whole sectors of memory whether pixels
// or classes lie side by side. Up to 20 classes stay in registers, so that logits are read once and each exponential is
// made once; more classes are read again in each of three sweeps. Pixels are independent: no scratch is needed, and
// every launch gives the same bits. Untuned, as no GPU was at hand: lanes of a pixel, threads of a block.
#include "cuda/upsample.h"

namespace fastuda::cuda {

constexpr int kKlThreads = 256, kKlLanes = 4, kKlHeld = 5;  // held: classes of a lane that stay in registers
template <class T>
constexpr int kKlBlocks = sizeof(T) == 8 ? 2 : 4;  // of a multiprocessor: what the registers are shared out for
constexpr int kKlPixels = kKlThreads / kKlLanes;

template <class Acc>
constexpr Acc kKlLowest = sizeof(Acc) == 8 ? static_cast<Acc>(-1.7e308) : static_cast<Acc>(-3.4e38);

// Where a gradient goes: (N, K, h, w) of any strides.
template <class T>
struct KlSlope {
  Pointer<T> data;
  PixelGrid grid;
  i64 class_stride;
};

template <class T>
struct SoftmaxKl {
  using Acc = Accumulate<T>;
  Scores<T> logits[2];
  Pointer<const u8> mask;  // where `masked`
  PixelGrid mask_grid;
  bool masked, symmetric;
  Acc scale, temperature;  // 1 / T, T
  u32 pixels;
  Pointer<Acc> loss;  // forward: in the order of the pixels
  Pointer<const Acc> grad;  // backward
  PixelGrid grad_grid;
  KlSlope<T> slope[2];
};

__device__ __forceinline__ float kl_sum(float x) {
#pragma unroll
  for (int flip = 1; flip < kKlLanes; flip *= 2) x += __shfl_xor_sync(kFullWarp, x, flip);
  return x;
}
__device__ __forceinline__ double kl_sum(double x) {
#pragma unroll
  for (int flip = 1; flip < kKlLanes; flip *= 2) x += __shfl_xor_sync(kFullWarp, x, flip);
  return x;
}

// A lane's classes of a pixel. kHeld: how many it keeps, 0 for any number, read again each time.
template <class T, int kHeld>
class KlPixel {
  using Acc = Accumulate<T>;
  const SoftmaxKl<T>& p_;
  const int part_;
  i64 at_[2];
  Acc power_[2][kHeld ? kHeld : 1], d_[kHeld ? kHeld : 1];
  Acc top_[2];

 public:
  u32 pixel, image, row, column;
  bool valid;
  Acc unit[2], mean[2];  // 1 / normaliser; of d under each softmax
  Acc log_ratio;         // of the normalisers

  __device__ __forceinline__ explicit KlPixel(const SoftmaxKl<T>& p)
      : p_(p), part_(threadIdx.x % kKlLanes), pixel(blockIdx.x * static_cast<u32>(kKlPixels) + threadIdx.x / kKlLanes) {
    const u32 width = static_cast<u32>(p.logits[0].width), height = static_cast<u32>(p.logits[0].height);
    const u32 line = pixel / width;
    column = pixel - line * width;
    image = line / height;
    row = line - image * height;
    valid = pixel < p.pixels;
    if (valid && p.masked) valid = p.mask[place(p.mask_grid)] != 0;
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      const Scores<T>& s = p.logits[side];
      at_[side] = image * s.image_stride + row * s.row_stride + column * s.column_stride;
    }
    sweep();
  }

  __device__ __forceinline__ i64 place(const PixelGrid& g) const {
    return image * g.image_stride + row * g.row_stride + column * g.column_stride;
  }

  // Calls use(k, p, q, d) for the classes of this lane.
  template <class Use>
  __device__ __forceinline__ void each(const Use& use) {
    visit([&](int i, int k) {
      Acc x, y, d;
      if constexpr (kHeld > 0) {
        x = power_[0][i];
        y = power_[1][i];
        d = d_[i];
      } else {
        powers(k, x, y, d);
      }
      use(k, x * unit[0], y * unit[1], d);
    });
  }

 private:
  template <class Use>
  __device__ __forceinline__ void visit(const Use& use) const {
    const int classes = valid ? p_.logits[0].classes : 0;
    if constexpr (kHeld > 0) {
#pragma unroll
      for (int i = 0; i < kHeld; ++i)
        if (part_ + i * kKlLanes < classes) use(i, part_ + i * kKlLanes);
    } else {
#pragma unroll 1
      for (int k = part_; k < classes; k += kKlLanes) use(0, k);
    }
  }

  __device__ __forceinline__ Acc logit(int side, int k) const {
    return value(p_.logits[side], at_[side] + k * p_.logits[side].class_stride);
  }

  __device__ __forceinline__ void powers(Acc a, Acc b, Acc& x, Acc& y, Acc& d) const {
    a = (a - top_[0]) * p_.scale;
    b = (b - top_[1]) * p_.scale;
    d = a - b;
    x = exponential(a);
    y = exponential(b);
  }
  __device__ __forceinline__ void powers(int k, Acc& x, Acc& y, Acc& d) const {
    powers(logit(0, k), logit(1, k), x, y, d);
  }

  __device__ __forceinline__ void sweep() {
    top_[0] = top_[1] = kKlLowest<Acc>;
    visit([&](int i, int k) {
#pragma unroll
      for (int side = 0; side < 2; ++side) {
        const Acc x = logit(side, k);
        if constexpr (kHeld > 0) power_[side][i] = x;
        top_[side] = x > top_[side] ? x : top_[side];
      }
    });
#pragma unroll
    for (int side = 0; side < 2; ++side)
#pragma unroll
      for (int flip = 1; flip < kKlLanes; flip *= 2) {
        const Acc x = __shfl_xor_sync(kFullWarp, top_[side], flip);
        top_[side] = x > top_[side] ? x : top_[side];
      }
    Acc total[2] = {}, sum[2] = {};
    visit([&](int i, int k) {
      Acc x, y, d;
      if constexpr (kHeld > 0) powers(power_[0][i], power_[1][i], x, y, d);
      else powers(k, x, y, d);
      total[0] += x;
      total[1] += y;
      sum[0] += x * d;
      sum[1] += y * d;
      if constexpr (kHeld > 0) {
        power_[0][i] = x;
        power_[1][i] = y;
        d_[i] = d;
      }
    });
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      total[side] = kl_sum(total[side]);
      sum[side] = kl_sum(sum[side]);
      unit[side] = 1 / total[side];
      mean[side] = sum[side] / total[side];
    }
    log_ratio = logarithm(total[0]) - logarithm(total[1]);
  }
};

template <class T, int kHeld>
__global__ void __launch_bounds__(kKlThreads, kKlBlocks<T>) kl_forward(SoftmaxKl<T> p) {
  using Acc = Accumulate<T>;
  KlPixel<T, kHeld> pixel(p);
  Acc loss = 0;
  if (p.symmetric) {
    pixel.each([&](int, Acc first, Acc second, Acc d) { loss += (first - second) * (d - pixel.mean[0]); });
    loss = kl_sum(loss);
  } else {
    loss = pixel.log_ratio - pixel.mean[1];
  }
  if (pixel.pixel < p.pixels && threadIdx.x % kKlLanes == 0)
    p.loss[pixel.pixel] = pixel.valid ? loss * (p.temperature * p.temperature) : Acc(0);
}

template <class T>
__device__ __forceinline__ void store_slope(const KlSlope<T>& to, i64 at, int k, Accumulate<T> slope) {
  T small;
  narrow(slope, small);
  to.data[at + k * to.class_stride] = small;
}

template <class T, int kHeld>
__global__ void __launch_bounds__(kKlThreads, kKlBlocks<T>) kl_backward(SoftmaxKl<T> p) {
  using Acc = Accumulate<T>;
  KlPixel<T, kHeld> pixel(p);
  if (pixel.pixel >= p.pixels) return;
  const i64 to = pixel.place(p.slope[0].grid), other_to = p.symmetric ? pixel.place(p.slope[1].grid) : 0;
  if (!pixel.valid) {
    for (int k = threadIdx.x % kKlLanes; k < p.logits[0].classes; k += kKlLanes) {
      store_slope(p.slope[0], to, k, Acc(0));
      if (p.symmetric) store_slope(p.slope[1], other_to, k, Acc(0));
    }
    return;
  }
  const Acc weight = p.grad[pixel.place(p.grad_grid)] * p.temperature;
  pixel.each([&](int k, Acc first, Acc second, Acc d) {
    const Acc gap = first - second;
    const Acc slope = p.symmetric ? first * (d - pixel.mean[0]) + gap : gap;
    store_slope(p.slope[0], to, k, slope * weight);
    if (p.symmetric) store_slope(p.slope[1], other_to, k, (second * (pixel.mean[1] - d) - gap) * weight);
  });
}

#define FASTUDA_KL(T, kHeld)                                       \
  template __global__ void kl_forward<T, kHeld>(SoftmaxKl<T>);     \
  template __global__ void kl_backward<T, kHeld>(SoftmaxKl<T>);
FASTUDA_KL(float, 0)
FASTUDA_KL(Half, 0)
FASTUDA_KL(BFloat16, 0)
FASTUDA_KL(double, 0)
FASTUDA_KL(float, kKlHeld)
FASTUDA_KL(Half, kKlHeld)
FASTUDA_KL(BFloat16, kKlHeld)

#if !defined(FASTUDA_KERNELS_ONLY)

struct KlSide {
  ScoreBuffer logits;  // (P, K) is one image of one row
  PixelBuffer slope;
  i64 slope_stride;
};

struct KlProblem {
  KlSide sides[2];
  PixelBuffer mask, grad;  // their data is null where there is none
  Buffer loss;
  double temperature;
  bool symmetric;

  u32 pixels() const {
    const ScoreBuffer& s = sides[0].logits;
    return static_cast<u32>(s.images) * static_cast<u32>(s.height) * static_cast<u32>(s.width);
  }
};

// Forward where there is no gradient to go on from.
inline void run_softmax_kl(const KlProblem& p, Stream stream) {
  if (p.pixels() == 0) return;
  with_type(p.sides[0].logits.type, [&](auto kind) {
    using T = decltype(kind);
    using Acc = Accumulate<T>;
    const auto slope = [&](int i) {
      return KlSlope<T>{global<T>(p.sides[i].slope.buffer), p.sides[i].slope.grid, p.sides[i].slope_stride};
    };
    const SoftmaxKl<T> s{
        {make_scores<T>(p.sides[0].logits), make_scores<T>(p.sides[1].logits)}, global<const u8>(p.mask.buffer),
        p.mask.grid, p.mask.buffer.data != nullptr, p.symmetric, static_cast<Acc>(1 / p.temperature),
        static_cast<Acc>(p.temperature), p.pixels(), global<Acc>(p.loss), global<const Acc>(p.grad.buffer), p.grad.grid,
        {slope(0), slope(1)}};
    constexpr int held = sizeof(T) == 8 ? 0 : kKlHeld;
    const bool few = s.logits[0].classes <= held * kKlLanes, backward = p.grad.buffer.data != nullptr;
    const auto kernel = backward ? (few ? kl_backward<T, held> : kl_backward<T, 0>)
                                 : (few ? kl_forward<T, held> : kl_forward<T, 0>);
    launch(kernel, dim3(ceil_div(s.pixels, static_cast<u32>(kKlPixels))), dim3(kKlThreads), 0, stream, s);
  });
}

#endif
}  // namespace fastuda::cuda

#if !defined(FASTUDA_KERNELS_ONLY) && !defined(FASTUDA_EMULATION)
namespace fastuda::cuda {

inline ScoreBuffer kl_logits(const Tensor& t) {
  if (t.dim() == 4) return score_buffer(t, "logits and other");
  return {buffer(t), feature_type(t), 0, t.stride(1), 0, t.stride(0), 1, small(t.size(1)), 1, small(t.size(0))};
}

inline KlProblem kl_problem(
    const Tensor& logits, const Tensor& other, const std::optional<Tensor>& mask, double temperature, bool symmetric) {
  STD_TORCH_CHECK(
      (logits.dim() == 2 || logits.dim() == 4) && logits.size(1) >= 1 && other.dim() == logits.dim() &&
          other.scalar_type() == logits.scalar_type(),
      "logits and other must be (N, K, h, w) or (P, K), of one dtype");
  for (int64_t i = 0; i < logits.dim(); ++i)
    STD_TORCH_CHECK(other.size(i) == logits.size(i), "logits and other must have one shape");
  small(logits.numel() / logits.size(1));
  KlProblem p{};
  p.temperature = temperature;
  p.symmetric = symmetric;
  if (logits.numel() == 0) return p;
  p.sides[0].logits = kl_logits(logits);
  p.sides[1].logits = kl_logits(other);
  if (mask) {
    STD_TORCH_CHECK(
        mask->scalar_type() == ScalarType::Bool && mask->dim() == logits.dim() - 1 && mask->numel() == p.pixels(),
        "mask must be bool (N, h, w) or (P,)");
    p.mask = pixel_buffer(*mask, false);
  }
  return p;
}

Tensor softmax_kl_forward_cuda(
    const Tensor& logits, const Tensor& other, const std::optional<Tensor>& mask, double temperature, bool symmetric) {
  const Device device(logits);
  KlProblem p = kl_problem(logits, other, mask, temperature, symmetric);
  std::vector<int64_t> size{logits.size(0)};
  for (int64_t i = 2; i < logits.dim(); ++i) size.push_back(logits.size(i));
  Tensor loss = torch::stable::new_empty(logits, size, statistic_type(feature_type(logits)));
  p.loss = buffer(loss);
  run_softmax_kl(p, device.stream());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return loss;
}

std::tuple<Tensor, Tensor> softmax_kl_backward_cuda(
    const Tensor& grad, const Tensor& logits, const Tensor& other, const std::optional<Tensor>& mask,
    double temperature, bool symmetric) {
  const Device device(logits);
  KlProblem p = kl_problem(logits, other, mask, temperature, symmetric);
  STD_TORCH_CHECK(
      grad.scalar_type() == statistic_type(feature_type(logits)) && grad.dim() == logits.dim() - 1 &&
          grad.numel() == p.pixels(),
      "grad must be (N, h, w) or (P,) of the loss's dtype");
  Tensor slope = torch::stable::empty_like(logits);
  Tensor other_slope = symmetric ? torch::stable::empty_like(other) : torch::stable::new_empty(other, {0});
  if (p.pixels() == 0) return {slope, other_slope};
  p.grad = pixel_buffer(grad, false);
  p.sides[0].slope = pixel_buffer(slope, true);
  p.sides[0].slope_stride = slope.stride(1);
  if (symmetric) {
    p.sides[1].slope = pixel_buffer(other_slope, true);
    p.sides[1].slope_stride = other_slope.stride(1);
  }
  run_softmax_kl(p, device.stream());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return {slope, other_slope};
}

}  // namespace fastuda::cuda

STABLE_TORCH_LIBRARY_IMPL(fastuda, CUDA, m) {
  m.impl("softmax_kl_forward_cuda", TORCH_BOX(&fastuda::cuda::softmax_kl_forward_cuda));
  m.impl("softmax_kl_backward_cuda", TORCH_BOX(&fastuda::cuda::softmax_kl_backward_cuda));
}
#endif
