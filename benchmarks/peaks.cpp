// What this processor can do at most, for roofline.py, which compiles this file with -march=native: multiply-adds of
// registers alone, and plain walks over memory whose stores pass by the caches, as the fastest kernels write.
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr std::size_t kBytes = 64;
#elif defined(__AVX__)
constexpr std::size_t kBytes = 32;
#else
constexpr std::size_t kBytes = 16;
#endif
typedef float Vector __attribute__((vector_size(kBytes), aligned(kBytes)));
constexpr int kLanes = kBytes / sizeof(float);
// Two units with a latency of four or five cycles need ten multiply-adds in flight; AVX2 has sixteen registers.
constexpr int kChains = 12;

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Volatile, so that the compiler cannot reckon a chain in advance: it drops one that it finds to be constant.
volatile float start_value = 1.5f, factor_value = 0.999f, term_value = 0.001f;

void multiply_add(std::int64_t turns, float* sink) {
  Vector sums[kChains], factor, term;
  for (int lane = 0; lane < kLanes; ++lane) {
    factor[lane] = factor_value;
    term[lane] = term_value;
    for (int chain = 0; chain < kChains; ++chain) sums[chain][lane] = start_value;
  }
  for (std::int64_t turn = 0; turn < turns; ++turn) {
#pragma GCC unroll 12
    for (int chain = 0; chain < kChains; ++chain) sums[chain] = sums[chain] * factor + term;
  }
  Vector total = sums[0];
  for (int chain = 1; chain < kChains; ++chain) total += sums[chain];
  for (int lane = 0; lane < kLanes; ++lane) sink[lane] = total[lane];
}

void store_past_caches(Vector* place, Vector value) {
#if defined(__AVX512F__)
  _mm512_stream_ps(reinterpret_cast<float*>(place), reinterpret_cast<__m512>(value));
#elif defined(__AVX__)
  _mm256_stream_ps(reinterpret_cast<float*>(place), reinterpret_cast<__m256>(value));
#elif defined(__x86_64__)
  _mm_stream_ps(reinterpret_cast<float*>(place), reinterpret_cast<__m128>(value));
#else
  *place = value;
#endif
}

void finish_stores() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

void read(const Vector* source, std::size_t count, float* sink) {
  Vector sums[8] = {};
  for (std::size_t i = 0; i + 8 <= count; i += 8) {
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) sums[j] += source[i + j];
  }
  Vector total = sums[0];
  for (int j = 1; j < 8; ++j) total += sums[j];
  for (int lane = 0; lane < kLanes; ++lane) sink[lane] = total[lane];
}

void copy(Vector* target, const Vector* source, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) store_past_caches(target + i, source[i]);
  finish_stores();
}

void write(Vector* target, std::size_t count) {
  const Vector value = {};
  for (std::size_t i = 0; i < count; ++i) store_past_caches(target + i, value);
  finish_stores();
}

// Runs work(thread) on so many threads, the caller's being one, and returns the seconds that all of them took.
template <typename Work>
double timed(int threads, Work work) {
  const auto start = std::chrono::steady_clock::now();
  std::vector<std::thread> others;
  for (int i = 1; i < threads; ++i) others.emplace_back([=] { work(i); });
  work(0);
  for (auto& other : others) other.join();
  return seconds_since(start);
}

}  // namespace

extern "C" {

std::int64_t fastuda_vector_bytes() { return kBytes; }

// GFLOP/s of float32 multiply-adds (two operations each) in one run of `turns` loops a thread.
double fastuda_fma(std::int64_t turns, int threads) {
  std::vector<float> sinks(static_cast<std::size_t>(threads) * kLanes);
  float* all = sinks.data();
  const double seconds = timed(threads, [=](int i) { multiply_add(turns, all + i * kLanes); });
  volatile float kept = all[0];
  (void)kept;
  return 2e-9 * static_cast<double>(turns) * kChains * kLanes * threads / seconds;
}

// Seconds of one walk over `bytes` of memory aligned to a vector: mode 0 reads, 1 copies, 2 writes.
double fastuda_walk(int mode, float* target, const float* source, std::size_t bytes, int threads) {
  const std::size_t count = bytes / kBytes / threads;
  std::vector<float> sinks(static_cast<std::size_t>(threads) * kLanes);
  float* all = sinks.data();
  auto* to = reinterpret_cast<Vector*>(target);
  const auto* from = reinterpret_cast<const Vector*>(source);
  const double seconds = timed(threads, [=](int i) {
    if (mode == 0) read(from + i * count, count, all + i * kLanes);
    if (mode == 1) copy(to + i * count, from + i * count, count);
    if (mode == 2) write(to + i * count, count);
  });
  volatile float kept = all[0];
  (void)kept;
  return seconds;
}
}
