// 64-byte vectors from the compiler's vector extension, and the choice of instruction set at run time.
//
// One body serves every instruction set: a kernel is written once as an always-inlined template, with_isa chooses the
// instruction set and on_isa compiles the body for it, so the wheel runs on any x86-64 (or other) machine and uses what
// it finds.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <utility>

#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "portable.h"

#define FASTUDA_INLINE inline __attribute__((always_inline))

// A lambda whose code belongs to the function that calls it, and to that one's instruction set.
#define FASTUDA_INLINED __attribute__((always_inline))
// How a body is compiled. -O3 vectorises the loops over single numbers. The portable form (for machines older than
// AVX2) and float64 (for checking) are rarely run and would take a third of the compile time at -O3: they use -O1.
#if defined(FASTUDA_ONE_LEVEL)  // tests build with less, and with sanitizers
#define FASTUDA_COMPILED(level, ...) __attribute__((noinline __VA_OPT__(, target(__VA_ARGS__))))
#else
#define FASTUDA_COMPILED(level, ...) __attribute__((noinline, optimize(level) __VA_OPT__(, target(__VA_ARGS__))))
#endif
#if defined(__x86_64__)
#define FASTUDA_ON_AVX512 FASTUDA_COMPILED("O3", "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#define FASTUDA_ON_AVX2 FASTUDA_COMPILED("O3", "avx2,fma")
#define FASTUDA_ON_ANY FASTUDA_COMPILED("O1")  // of machines that are older than AVX2
#else
#define FASTUDA_ON_AVX512
#define FASTUDA_ON_AVX2
#define FASTUDA_ON_ANY FASTUDA_COMPILED("O3")
#endif
#define FASTUDA_TO_CHECK FASTUDA_COMPILED("O1")

namespace fastuda {

enum class Isa { portable, avx2, avx512 };

inline const char* name_of(Isa isa) {
  return isa == Isa::avx512 ? "avx512" : isa == Isa::avx2 ? "avx2" : "portable";
}

// FASTUDA_CPU_ISA caps the choice, so that each path can be tested on one machine; read once.
inline Isa cpu_isa() {
  static const Isa chosen = [] {
    Isa best = Isa::portable;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) best = Isa::avx2;
    if (best == Isa::avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
      best = Isa::avx512;
#endif
    const char* cap = std::getenv("FASTUDA_CPU_ISA");
    if (cap && !std::strcmp(cap, "portable")) return Isa::portable;
    if (cap && !std::strcmp(cap, "avx2") && best == Isa::avx512) return Isa::avx2;
    return best;
  }();
  return chosen;
}

// Calls run.operator()<T>() with the type of a tensor's numbers. Arithmetic is compiled once for each type of sums;
// float32 and 16-bit numbers differ only where they are loaded and stored, outside the innermost loop. Sums in double
// are of float64 numbers only.
template <class Acc, class Run>
FASTUDA_INLINE void with_type(torch::headeronly::ScalarType type, const Run& run) {
  using torch::headeronly::ScalarType;
  if constexpr (sizeof(Acc) == sizeof(double)) run.template operator()<double>();
  else if (type == ScalarType::Float) run.template operator()<float>();
  else if (type == ScalarType::Half) run.template operator()<torch::headeronly::Half>();
  else run.template operator()<torch::headeronly::BFloat16>();
}

inline int64_t bytes_of(torch::headeronly::ScalarType type) {
  using torch::headeronly::ScalarType;
  return type == ScalarType::Double ? 8 : type == ScalarType::Float ? 4 : 2;
}

template <class T>
constexpr torch::headeronly::ScalarType type_of() {
  using torch::headeronly::ScalarType;
  if constexpr (sizeof(T) == sizeof(double)) return ScalarType::Double;
  else if constexpr (sizeof(T) == sizeof(float)) return ScalarType::Float;
  else if constexpr (std::is_same_v<T, torch::headeronly::Half>) return ScalarType::Half;
  else return ScalarType::BFloat16;
}

// The type of the sums as a tensor's.
template <class Acc>
inline constexpr torch::headeronly::ScalarType kTypeOf = type_of<Acc>();

// Calls run.operator()<isa>() with the instruction set of this machine; for float64, which is for checking, always with
// the portable one.
template <class T, class Run>
auto with_isa(const Run& run) {
  if constexpr (sizeof(Accumulate<T>) == sizeof(float)) {
    if (cpu_isa() == Isa::avx512) return run.template operator()<Isa::avx512>();
    if (cpu_isa() == Isa::avx2) return run.template operator()<Isa::avx2>();
  }
  return run.template operator()<Isa::portable>();
}

// Runs body() as code for an instruction set. The body is an always-inlined lambda and must call only always-inlined
// functions: other functions are compiled for any machine, as the linker may merge them with those of other files.
template <class Body>
FASTUDA_ON_AVX512 void on_avx512(const Body& body) {
  body();
}
template <class Body>
FASTUDA_ON_AVX2 void on_avx2(const Body& body) {
  body();
}
template <class Body>
FASTUDA_ON_ANY void on_any(const Body& body) {
  body();
}
template <class Body>
FASTUDA_TO_CHECK void on_any_to_check(const Body& body) {
  body();
}

template <class Acc, Isa isa, class Body>
void on_isa(const Body& body) {
  if constexpr (sizeof(Acc) == sizeof(double)) on_any_to_check(body);
  else if constexpr (isa == Isa::avx512) on_avx512(body);
  else if constexpr (isa == Isa::avx2) on_avx2(body);
  else on_any(body);
}

// A number that depends on the instruction set, such as how many sums fit into its registers.
template <Isa isa>
constexpr int by_isa(int avx512, int avx2, int portable) {
  return isa == Isa::avx512 ? avx512 : isa == Isa::avx2 ? avx2 : portable;
}

template <class Acc>
inline constexpr int kLanes = 64 / sizeof(Acc);

template <class Acc>
struct VecOf;
template <>
struct VecOf<float> {
  typedef float type __attribute__((vector_size(64)));
  typedef int32_t mask __attribute__((vector_size(64)));
};
template <>
struct VecOf<double> {
  typedef double type __attribute__((vector_size(64)));
  typedef int64_t mask __attribute__((vector_size(64)));
};
template <class Acc>
using Vec = typename VecOf<Acc>::type;

typedef uint16_t HalfWords __attribute__((vector_size(32)));
typedef uint32_t Words __attribute__((vector_size(64)));

// Unaligned loads of one vector of accumulators.
FASTUDA_INLINE void load(const float* from, Vec<float>& to) { std::memcpy(&to, from, sizeof(to)); }
FASTUDA_INLINE void load(const double* from, Vec<double>& to) { std::memcpy(&to, from, sizeof(to)); }

FASTUDA_INLINE void load(const torch::headeronly::BFloat16* from, Vec<float>& to) {
  HalfWords bits;
  std::memcpy(&bits, from, sizeof(bits));
  const Words wide = __builtin_convertvector(bits, Words) << 16;
  std::memcpy(&to, &wide, sizeof(to));
}

// Rebiasing by a multiplication treats subnormal halves rightly; only infinities and NaN need the exponent forced.
FASTUDA_INLINE void load(const torch::headeronly::Half* from, Vec<float>& to) {
  HalfWords bits;
  std::memcpy(&bits, from, sizeof(bits));
  const Words wide = __builtin_convertvector(bits, Words);
  const Words magnitude = (wide & 0x7fffu) << 13;
  Vec<float> value;
  std::memcpy(&value, &magnitude, sizeof(value));
  value *= 0x1p112f;
  Words out;
  std::memcpy(&out, &value, sizeof(out));
  out |= (Words)((wide & 0x7fffu) >= 0x7c00u) & 0x7f800000u;
  out |= (wide & 0x8000u) << 16;
  std::memcpy(&to, &out, sizeof(to));
}

template <class T, class Acc>
FASTUDA_INLINE void load_partial(const T* from, int count, Vec<Acc>& to) {
  T numbers[kLanes<Acc>] = {};
#pragma GCC unroll 1
  for (int lane = 0; lane < count; ++lane) numbers[lane] = from[lane];
  load(numbers, to);
}

template <class Acc>
FASTUDA_INLINE void store(const Vec<Acc>& from, Acc* to) {
  std::memcpy(to, &from, sizeof(from));
}

// Where a mask is set (all ones) the first value, elsewhere the second.
FASTUDA_INLINE Words pick(Words mask, Words yes, Words no) { return (mask & yes) | (~mask & no); }

// Rounded to nearest, ties to even; NaN stays NaN.
FASTUDA_INLINE void store(const Vec<float>& from, torch::headeronly::BFloat16* to) {
  Words bits;
  std::memcpy(&bits, &from, sizeof(bits));
  const Words rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const Words out = pick((Words)((bits & 0x7fffffffu) > 0x7f800000u), (bits >> 16) | 0x40u, rounded);
  const HalfWords words = __builtin_convertvector(out, HalfWords);
  std::memcpy(to, &words, sizeof(words));
}

// The last bit of 0.5f is worth the smallest half, so adding 0.5f rounds a number that becomes a subnormal half.
FASTUDA_INLINE void store(const Vec<float>& from, torch::headeronly::Half* to) {
  Words bits, small;
  std::memcpy(&bits, &from, sizeof(bits));
  const Words magnitude = bits & 0x7fffffffu;
  Vec<float> shifted;
  std::memcpy(&shifted, &magnitude, sizeof(shifted));
  shifted += 0.5f;
  std::memcpy(&small, &shifted, sizeof(small));
  const Words normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  Words out = pick((Words)(magnitude < 0x38800000u), small - 0x3f000000u, normal);
  out = pick((Words)(magnitude >= 0x47800000u), Words{} + 0x7c00u, out);
  out = pick((Words)(magnitude > 0x7f800000u), Words{} + 0x7e00u, out) | ((bits >> 16) & 0x8000u);
  const HalfWords words = __builtin_convertvector(out, HalfWords);
  std::memcpy(to, &words, sizeof(words));
}

// Swaps off-diagonal blocks of size `bit`. The order of the lanes is a constant expression: filled lane by lane it took
// most of the compile time of a transposition, and was filled again at run time.
template <class Acc, int bit, int... lane>
FASTUDA_INLINE void swap_blocks(Vec<Acc> (&rows)[kLanes<Acc>], std::integer_sequence<int, lane...>) {
  constexpr int lanes = kLanes<Acc>;
  using Order = typename VecOf<Acc>::mask;
  const Order low = {(lane & bit ? lanes + (lane ^ bit) : lane)...};
  const Order high = {(lane & bit ? lanes + lane : lane ^ bit)...};
#pragma GCC unroll 16
  for (int i = 0; i < lanes; ++i) {
    if (i & bit) continue;
    const Vec<Acc> a = rows[i], b = rows[i | bit];
    rows[i] = __builtin_shuffle(a, b, low);
    rows[i | bit] = __builtin_shuffle(a, b, high);
  }
}

// Transposes a kLanes x kLanes block held in registers: swap off-diagonal blocks of size 1, 2, 4, ...
template <class Acc>
FASTUDA_INLINE void transpose(Vec<Acc> (&rows)[kLanes<Acc>]) {
  constexpr std::make_integer_sequence<int, kLanes<Acc>> all{};
  swap_blocks<Acc, 1>(rows, all);
  swap_blocks<Acc, 2>(rows, all);
  swap_blocks<Acc, 4>(rows, all);
  if constexpr (kLanes<Acc> > 8) swap_blocks<Acc, 8>(rows, all);
}

}  // namespace fastuda
