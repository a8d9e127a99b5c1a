// Pixels drawn by class on the CPU: the reference's draws, bit for bit, without sorting an image.
//
// The n smallest of m random numbers are nearly always among those below (n + a few standard deviations) / m, so one
// pass keeps a short list of candidates, and only these are partitioned. A class whose candidates turn out to be too
// few is searched whole. Images are independent.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "cpu/pixels.h"
#include "cpu/random_seed.h"

namespace fastuda {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr uint32_t kEverything = 1u << 31;  // above all 31-bit numbers

struct Labels {
  const void* data;
  ScalarType type;
  int64_t images, pixels, image_stride, pixel_stride, classes, ignore_index;
};

// The class of each pixel of an image, `classes` for those that are never drawn; 31 random bits of each pixel.
FASTUDA_INLINE void prepare(
    const Labels& labels, int64_t image, const RandomBits& random, uint32_t stream, int32_t* label, uint32_t* bits) {
  if (label)
    read_labels(
        labels.data, labels.type, image * labels.image_stride, labels.pixel_stride, labels.pixels, labels.classes,
        labels.ignore_index, label);
  const uint32_t number = static_cast<uint32_t>(image * labels.pixels);
  for (int64_t i = 0; i < labels.pixels; ++i) bits[i] = random.of(number + static_cast<uint32_t>(i), stream) >> 1;
}

void prepare_image(
    const Labels& labels, int64_t image, const RandomBits& random, uint32_t stream, int32_t* label, uint32_t* bits) {
  with_isa<float>([&]<Isa isa>() {
    on_isa<float, isa>([&]() FASTUDA_INLINED { prepare(labels, image, random, stream, label, bits); });
  });
}

// A bound below which the n smallest of m random numbers nearly always lie.
uint32_t limit_of(int64_t n, int64_t m) {
  if (n == 0) return 0;
  const double wanted = static_cast<double>(n) + 3 * std::sqrt(static_cast<double>(n)) + 4;
  return wanted >= static_cast<double>(m) ? kEverything : static_cast<uint32_t>(wanted / m * kEverything);
}

// The smallest number above the n <= count smallest of `keys`, which are all different and are reordered. It is no
// larger than that even where n is all of them, since numbers that are not in `keys` are compared with it, too.
uint64_t bound_of(uint64_t* keys, int64_t n, int64_t count) {
  if (n == 0) return 0;
  std::nth_element(keys, keys + n - 1, keys + count);
  return keys[n - 1] + 1;
}

// The draw of one image at a time; the memory is used again for the next image.
class Drawing {
 public:
  Drawing(const Labels& labels, const RandomBits& random)
      : labels_(labels), random_(random), label_(labels.pixels), bits_(labels.pixels), list_(labels.pixels + 1),
        sizes_(labels.classes + 1), bounds_(labels.classes + 1), limits_(labels.classes + 1),
        starts_(labels.classes + 2) {}

  void begin(int64_t image) {
    image_ = image;
    prepare_image(labels_, image, random_, 0, label_.data(), bits_.data());
    std::fill(sizes_.begin(), sizes_.end(), 0);
    for (int64_t i = 0; i < labels_.pixels; ++i) ++sizes_[label_[i]];
  }

  const int64_t* sizes() const { return sizes_.data(); }

  // Finds bounds such that of each class the `wanted` pixels with the smallest keys are those below its bound.
  void choose(const int64_t* wanted) {
    const int64_t classes = labels_.classes;
    for (int64_t k = 0; k < classes; ++k) limits_[k] = limit_of(std::min(wanted[k], sizes_[k]), sizes_[k]);
    limits_[classes] = 0;
    for (bool enough = false; !enough;) {
      collect();
      enough = true;
      for (int64_t k = 0; k < classes; ++k)
        if (starts_[k + 1] - starts_[k] < std::min(wanted[k], sizes_[k])) {
          limits_[k] = kEverything;
          enough = false;
        }
    }
    std::vector<int64_t> next(starts_.begin(), starts_.end() - 1);
    keys_.resize(starts_[classes]);
    for (int64_t i = 0; i < count_; ++i) keys_[next[label_[list_[i]]]++] = key(list_[i]);
    for (int64_t k = 0; k < classes; ++k)
      bounds_[k] = wanted[k] >= sizes_[k]
          ? std::numeric_limits<uint64_t>::max()
          : bound_of(keys_.data() + starts_[k], wanted[k], starts_[k + 1] - starts_[k]);
    bounds_[classes] = 0;
  }

  // Calls take(class, pixel) for the chosen pixels, in rising order.
  template <class Take>
  void each(const Take& take) const {
    for (int64_t i = 0; i < count_; ++i)
      if (chosen(list_[i])) take(label_[list_[i]], list_[i]);
  }

  // The `missing` pixels with the smallest keys of the second stream among `left` that are not chosen, in rising order.
  std::vector<int32_t> top_up(int64_t missing, int64_t left) {
    std::vector<int32_t> found;
    if (missing == 0) return found;
    std::vector<uint32_t> bits(labels_.pixels);
    prepare_image(labels_, image_, random_, 1, nullptr, bits.data());
    std::vector<uint64_t> keys;
    for (uint32_t limit = limit_of(missing, left);; limit = kEverything) {
      found.clear();
      keys.clear();
      for (int64_t i = 0; i < labels_.pixels; ++i)
        if (bits[i] < limit && label_[i] < labels_.classes && !chosen(i)) {
          found.push_back(static_cast<int32_t>(i));
          keys.push_back(key(i, bits[i]));
        }
      if (static_cast<int64_t>(found.size()) >= missing) break;
    }
    const uint64_t bound = bound_of(keys.data(), missing, keys.size());
    std::erase_if(found, [&](int32_t i) { return key(i, bits[i]) >= bound; });
    return found;
  }

 private:
  // Keys are all different: pixels with equal bits are ordered by their number.
  static uint64_t key(int64_t pixel, uint32_t bits) {
    return (static_cast<uint64_t>(bits) << 32) + static_cast<uint64_t>(pixel);
  }
  uint64_t key(int64_t pixel) const { return key(pixel, bits_[pixel]); }
  bool chosen(int64_t pixel) const { return key(pixel) < bounds_[label_[pixel]]; }

  // Lists the pixels below their class's limit in rising order, and counts them by class. It has no branch, as a CPU
  // could not predict it.
  void collect() {
    count_ = 0;
    for (int64_t i = 0; i < labels_.pixels; ++i) {
      list_[count_] = static_cast<int32_t>(i);
      count_ += bits_[i] < limits_[label_[i]];
    }
    std::fill(starts_.begin(), starts_.end(), 0);
    for (int64_t i = 0; i < count_; ++i) ++starts_[label_[list_[i]] + 1];
    for (int64_t k = 0; k < labels_.classes; ++k) starts_[k + 1] += starts_[k];
  }

  const Labels& labels_;
  const RandomBits random_;
  int64_t image_ = 0, count_ = 0;
  std::vector<int32_t> label_;
  std::vector<uint32_t> bits_;
  std::vector<int32_t> list_;
  std::vector<int64_t> sizes_;
  std::vector<uint64_t> bounds_;
  std::vector<uint32_t> limits_;
  std::vector<int64_t> starts_;
  std::vector<uint64_t> keys_;
};

Labels view(const Tensor& t, int64_t classes, int64_t ignore_index, int64_t wanted) {
  label_bytes(t);
  STD_TORCH_CHECK(t.dim() == 2, "labels must be (B, P)");
  STD_TORCH_CHECK(t.numel() < int64_t(1) << 31, "labels must have fewer than 2^31 pixels");
  STD_TORCH_CHECK(
      classes >= 1 && classes < int64_t(1) << 31 && wanted >= 0,
      "num_classes must be at least 1 and the number of pixels to draw not negative");
  return {t.const_data_ptr(), t.scalar_type(), t.size(0), t.size(1), t.stride(0), t.stride(1), classes, ignore_index};
}

// draw(image, drawing) for all images, on all threads.
template <class Draw>
void for_images(const Labels& labels, const Tensor& seed, const Draw& draw) {
  const RandomBits random = random_bits(seed);
  torch::stable::parallel_for(0, labels.images, 1, [&](int64_t begin, int64_t end) {
    Drawing drawing(labels, random);
    for (int64_t image = begin; image < end; ++image) {
      drawing.begin(image);
      draw(image, drawing);
    }
  });
}

Tensor class_balanced_sample(
    const Tensor& labels, const Tensor& seed, int64_t num_classes, int64_t count, int64_t ignore_index) {
  const Labels all = view(labels, num_classes, ignore_index, count);
  Tensor out = torch::stable::new_empty(labels, {all.images, count}, ScalarType::Long);
  int64_t* result = static_cast<int64_t*>(out.mutable_data_ptr());
  for_images(all, seed, [&](int64_t image, Drawing& drawing) {
    std::vector<int64_t> quota(num_classes);
    int64_t total = 0, drawn = 0;
    for (int64_t k = 0; k < num_classes; ++k) total += drawing.sizes()[k];
    for (int64_t k = 0; k < num_classes; ++k) {
      quota[k] = count * drawing.sizes()[k] / std::max<int64_t>(total, 1);
      drawn += std::min(quota[k], drawing.sizes()[k]);
    }
    drawing.choose(quota.data());
    const std::vector<int32_t> more = drawing.top_up(std::min(count, total) - drawn, total - drawn);
    int64_t *to = result + image * count, *end = to + count;
    auto next = more.begin();
    drawing.each([&](int32_t, int32_t pixel) {
      for (; next != more.end() && *next < pixel; ++next) *to++ = *next;
      *to++ = pixel;
    });
    to = std::copy(next, more.end(), to);
    std::fill(to, end, -1);
  });
  return out;
}

Tensor sample_per_class(
    const Tensor& labels, const Tensor& seed, int64_t num_classes, int64_t per_class, int64_t ignore_index) {
  const Labels all = view(labels, num_classes, ignore_index, per_class);
  Tensor out = torch::stable::new_empty(labels, {all.images, num_classes, per_class}, ScalarType::Long);
  int64_t* result = static_cast<int64_t*>(out.mutable_data_ptr());
  const std::vector<int64_t> quota(num_classes, per_class);
  for_images(all, seed, [&](int64_t image, Drawing& drawing) {
    drawing.choose(quota.data());
    int64_t* to = result + image * num_classes * per_class;
    std::vector<int64_t> found(num_classes);
    drawing.each([&](int32_t label, int32_t pixel) { to[label * per_class + found[label]++] = pixel; });
    for (int64_t k = 0; k < num_classes; ++k) std::fill(to + k * per_class + found[k], to + (k + 1) * per_class, -1);
  });
  return out;
}

}  // namespace
}  // namespace fastuda

STABLE_TORCH_LIBRARY_IMPL(fastuda, CPU, m) {
  m.impl("class_balanced_sample", TORCH_BOX(&fastuda::class_balanced_sample));
  m.impl("sample_per_class", TORCH_BOX(&fastuda::sample_per_class));
}
