// Which pixels are drawn: of each image and class the `wanted` ones with the smallest keys, without a sort.
//
// A pixel's key is 31 random bits, then its number. The wanted-th smallest is found from the top, 8 bits a pass: the
// pixels that share the digits found so far are counted by their next digit (integer counts: their order does not
// matter), and a warp an image and class picks the digit at which the count is reached. Once a digit is taken whole the
// class is settled. Where pixels of equal bits are left to choose from - one class in thousands - a block walks the
// image for the last of them. The top-up does the same on the second stream, an image being one class.
#pragma once

#include "cuda/block_scan.h"
#include "cuda/random_draws.h"

namespace fastuda::cuda {

constexpr int kDrawThreads = kScanThreads, kDrawWarps = kScanWarps;
constexpr int kDigitBits = 8, kDigits = 1 << kDigitBits, kPasses = 4;  // 8 + 8 + 8 + 7 of 31 bits
constexpr int kLaneDigits = kDigits / kWarp;
constexpr int kSharedClasses = 40;  // whose counts a block keeps to itself in the first pass: 40 KB

// Of each image and class of a stream; the second stream has one class.
struct Threshold {
  Pointer<u32> prefix;  // digits found so far
  Pointer<int> left;    // how many are still to be chosen among the pixels that share them; 0 where settled
  Pointer<u64> bound;   // keys below it are chosen
};

struct ClassDraw {
  Labels labels;  // the grid is (images, 1, pixels)
  Seed seed;
  u32 images, pixels;
  int classes;
  i64 wanted;     // of an image where by_share, else of each class
  bool by_share;  // a class gets its share of `wanted`, and a top-up fills the rest
  Threshold first, second;
  Pointer<int> counts;         // (images, classes, digits): 0 before each pass
  Pointer<int> valid, chosen;  // (images): pixels that count, and those of them that the first stream has chosen
};

__device__ __forceinline__ int draw_pass_shift(int pass) {
  return pass == kPasses - 1 ? 0 : 31 - kDigitBits * (pass + 1);
}
__device__ __forceinline__ int draw_pass_bits(int pass) {
  return pass == kPasses - 1 ? 31 - kDigitBits * (kPasses - 1) : kDigitBits;
}

// The class of a pixel, or -1 where it is ignored or out of range.
__device__ __forceinline__ int class_of(const Labels& labels, u32 image, u32 pixel) {
  return class_at(labels, image * labels.grid.image_stride + pixel * labels.grid.column_stride);
}

__device__ __forceinline__ u64 draw_key(u32 bits, u32 pixel) { return static_cast<u64>(bits) << 32 | pixel; }

__device__ __forceinline__ u32 draw_bits(
    const ClassDraw& d, const RandomBits& random, u32 image, u32 pixel, u32 stream) {
  return random.of(image * d.pixels + pixel, stream) >> 1;
}

__device__ __forceinline__ bool chosen_first(
    const ClassDraw& d, const RandomBits& random, u32 image, u32 pixel, int label) {
  const u64 bound = d.first.bound[static_cast<i64>(image) * d.classes + label];
  return bound != 0 && draw_key(draw_bits(d, random, image, pixel, 0), pixel) < bound;
}

// How many pixels the top-up adds.
__device__ __forceinline__ int missing_pixels(const ClassDraw& d, u32 image) {
  const int valid = d.valid[image], chosen = d.chosen[image];
  return (d.wanted < valid ? static_cast<int>(d.wanted) : valid) - chosen;
}

template <bool kSecond>
struct Candidate {
  int bucket = -1;  // its class, or 0 of the second stream; -1 if it is none
  u32 bits = 0;

  // A pixel that shares the digits found before, those above `shift`.
  __device__ __forceinline__ Candidate(
      const ClassDraw& d, const RandomBits& random, u32 image, u32 pixel, bool found, int shift) {
    const int label = class_of(d.labels, image, pixel);
    if (label < 0) return;
    const Threshold& s = kSecond ? d.second : d.first;
    const i64 at = kSecond ? image : static_cast<i64>(image) * d.classes + label;
    if (found && s.left[at] == 0) return;
    if (kSecond && chosen_first(d, random, image, pixel, label)) return;
    bits = draw_bits(d, random, image, pixel, kSecond);
    if (!found || bits >> shift == s.prefix[at]) bucket = kSecond ? 0 : label;
  }
};

// Nothing counted yet.
__device__ __forceinline__ void draw_clear(const ClassDraw& d) {
  const i64 size = static_cast<i64>(d.images) * d.classes * kDigits, step = static_cast<i64>(gridDim.x) * kDrawThreads;
  for (i64 i = static_cast<i64>(blockIdx.x) * kDrawThreads + threadIdx.x; i < size; i += step) {
    d.counts[i] = 0;
    if (i < d.images) d.valid[i] = d.chosen[i] = 0;
  }
}

// Counts part `part` of all pixels, `block_pixels` of one image; in_shared: the block keeps the counts to itself until
// the end. All threads of the block.
template <bool kSecond>
__device__ __forceinline__ void draw_count(
    const ClassDraw& d, int pass, u32 block_pixels, bool in_shared, u32 part) {
  const u32 blocks = ceil_div(d.pixels, block_pixels), image = part / blocks;
  const u32 begin = part % blocks * block_pixels;
  const u32 end = d.pixels - begin < block_pixels ? d.pixels : begin + block_pixels;
  if (kSecond && missing_pixels(d, image) == 0) return;
  const int buckets = kSecond ? 1 : d.classes, shift = draw_pass_shift(pass);
  const u32 mask = (1u << draw_pass_bits(pass)) - 1;
  const Pointer<int> own = shared<int>(0), all = d.counts + static_cast<i64>(image) * buckets * kDigits;
  if (in_shared) {  // each thread clears the counts that it has added to all
    for (int i = threadIdx.x; i < buckets * kDigits; i += kDrawThreads) own[i] = 0;
    __syncthreads();
  }
  const RandomBits random = random_bits(d.seed);
  int valid = 0;
  for (u32 pixel = begin + threadIdx.x; pixel < end; pixel += kDrawThreads) {
    const Candidate<kSecond> c(d, random, image, pixel, pass > 0, shift + draw_pass_bits(pass));
    if (c.bucket < 0) continue;
    ++valid;
    const int digit = static_cast<int>(c.bits >> shift & mask);
    if (in_shared) atomicAdd(own + (c.bucket * kDigits + digit), 1);
    else atomicAdd(all + (static_cast<i64>(c.bucket) * kDigits + digit), 1);
  }
  if (in_shared) {
    __syncthreads();
    for (int i = threadIdx.x; i < buckets * kDigits; i += kDrawThreads) {
      const int count = own[i];
      if (count) atomicAdd(all + i, count);
    }
  }
  if (kSecond || pass > 0) return;
  valid = warp_scan(valid);
  if (threadIdx.x % kWarp == kWarp - 1 && valid) atomicAdd(d.valid + image, valid);
}

// How many pixels of a class, or of an image's top-up, are wanted of the `size` that there are.
template <bool kSecond>
__device__ __forceinline__ int draw_quota(const ClassDraw& d, u32 image, int size) {
  if (kSecond) return missing_pixels(d, image);
  i64 quota = d.wanted;
  if (d.by_share) {
    const int valid = d.valid[image];
    quota = quota * size / (valid > 1 ? valid : 1);
  }
  return quota < size ? static_cast<int>(quota) : size;
}

// The next digit of number `at` of the images and classes, by a warp; the counts are 0 again.
template <bool kSecond>
__device__ __forceinline__ void draw_digit(const ClassDraw& d, int pass, i64 at) {
  const int lane = threadIdx.x % kWarp, buckets = kSecond ? 1 : d.classes;
  const u32 image = static_cast<u32>(at / buckets);
  const Threshold& s = kSecond ? d.second : d.first;
  const Pointer<int> counts = d.counts + (at * kDigits + lane * kLaneDigits);
  int mine[kLaneDigits], sum = 0;
#pragma unroll
  for (int i = 0; i < kLaneDigits; ++i) {
    mine[i] = counts[i];
    counts[i] = 0;
    sum += mine[i];
  }
  const int upto = warp_scan(sum), size = __shfl_sync(kFullWarp, upto, kWarp - 1);
  const int left = pass ? static_cast<int>(s.left[at]) : draw_quota<kSecond>(d, image, size);
  u32 prefix = pass && left ? static_cast<u32>(s.prefix[at]) : 0;
  __syncwarp();  // before one lane writes what all have read
  if (pass == 0) {
    if (!kSecond && d.by_share && lane == 0 && left) atomicAdd(d.chosen + image, left);
    if (left == 0 || left == size) {
      if (lane == 0) {
        s.left[at] = 0;
        s.bound[at] = left ? ~u64(0) : 0;
      }
      return;
    }
  }
  int before = upto - sum;
  if (left == 0 || before >= left || left > upto) return;
  int digit = 0, count = 0;  // this lane has it
#pragma unroll
  for (int i = 0; i < kLaneDigits; ++i) {
    if (count) continue;
    if (left - before <= mine[i]) {
      digit = lane * kLaneDigits + i;
      count = mine[i];
    } else {
      before += mine[i];
    }
  }
  const int shift = draw_pass_shift(pass);
  prefix = prefix << draw_pass_bits(pass) | static_cast<u32>(digit);
  const bool whole = left - before == count;
  s.prefix[at] = prefix;
  s.left[at] = whole ? 0 : left - before;
  s.bound[at] = whole ? static_cast<u64>(prefix + 1) << (shift + 32) : 0;
}

// Where pixels of equal bits are left to choose from, those with the lowest numbers: number `at` of the images and
// classes, by a block.
template <bool kSecond>
__device__ __forceinline__ void draw_ties(const ClassDraw& d, i64 at) {
  const Threshold& s = kSecond ? d.second : d.first;
  const int left = s.left[at];
  if (left == 0) return;
  const int buckets = kSecond ? 1 : d.classes, bucket = static_cast<int>(at % buckets);
  const u32 image = static_cast<u32>(at / buckets);
  const RandomBits random = random_bits(d.seed);
  int before = 0;
  for (u32 first = 0; first < d.pixels && before < left; first += kDrawThreads) {
    const u32 pixel = first + threadIdx.x;
    u32 bits = 0;
    bool tied = false;
    if (pixel < d.pixels) {
      const Candidate<kSecond> c(d, random, image, pixel, true, 0);
      bits = c.bits;
      tied = c.bucket == bucket;
    }
    int all;
    const int upto = before + block_scan(shared<int>(0), tied, all);
    if (tied && upto == left) s.bound[at] = draw_key(bits, pixel) + 1;
    before += all;
  }
}

// The steps of one stream: a count and a digit for each pass, then the ties.
constexpr int kDrawSteps = 2 * kPasses + 1;

template <bool kSecond>
__device__ __forceinline__ void draw_step(const ClassDraw& d, int step, u32 block_pixels) {
  const i64 buckets = static_cast<i64>(d.images) * (kSecond ? 1 : d.classes);
  const i64 warp = static_cast<i64>(blockIdx.x) * kDrawWarps + threadIdx.x / kWarp;
  const int pass = step / 2;
  if (step == kDrawSteps - 1) {
    for (i64 at = blockIdx.x; at < buckets; at += gridDim.x) draw_ties<kSecond>(d, at);
  } else if (step % 2) {
    for (i64 at = warp; at < buckets; at += static_cast<i64>(gridDim.x) * kDrawWarps)
      draw_digit<kSecond>(d, pass, at);
  } else {
    // Later passes count so few pixels that they may as well do it where all blocks do.
    const bool in_shared = pass == 0 && (kSecond || d.classes <= kSharedClasses);
    const u32 parts = d.images * ceil_div(d.pixels, block_pixels);
    for (u32 part = blockIdx.x; part < parts; part += gridDim.x)
      draw_count<kSecond>(d, pass, block_pixels, in_shared, part);
  }
}

}  // namespace fastuda::cuda
