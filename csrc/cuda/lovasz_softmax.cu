// Lovász-Softmax of bilinearly upsampled scores on a GPU: exact by a sort of the errors (lovasz_softmax_exact.h), or
// with errors counted in bins (lovasz_softmax_bins.h).
#include "cuda/lovasz_softmax_bins.h"
#include "cuda/lovasz_softmax_exact.h"

#if !defined(FASTUDA_KERNELS_ONLY)
namespace fastuda::cuda {

struct LovaszExactParts {
  int group, tiles;  // classes sorted at once; tiles of one class's order
  Buffer totals, least, most, unit, mean, keys[2], order[2], table, digits, sizes, own, sums, partials;
  i64 bytes;

  LovaszExactParts(const LovaszProblem& p, const Buffer& whole) {
    const i64 pixels = p.pixels(), classes = p.scores.classes, size = p.sum_size();
    const i64 fit = p.errors_at_once / std::max<i64>(pixels, 1);
    group = static_cast<int>(std::clamp<i64>(fit, 1, std::min<i64>(classes, 65535)));
    tiles = static_cast<int>(ceil_div<i64>(pixels, kRadixTile));
    const i64 planes = p.probabilities ? 0 : pixels;
    Scratch scratch{whole};
    totals = scratch.take(classes, 4);
    least = scratch.take(classes, size);
    most = scratch.take(planes, size);
    unit = scratch.take(planes, size);
    mean = scratch.take(p.with_slope ? planes : 0, size);
    for (int i = 0; i < 2; ++i) {
      keys[i] = scratch.take(group * pixels, size);
      order[i] = scratch.take(group * pixels, 4);
    }
    table = scratch.take((static_cast<i64>(group) << kRadixBits) * tiles, 4);
    digits = scratch.take(static_cast<i64>(group) << kRadixBits, 4);
    sizes = scratch.take(group, 4);
    own = scratch.take(static_cast<i64>(group) * tiles, 4);
    sums = scratch.take(classes * tiles, 8);
    partials = scratch.take(p.with_slope ? p.cells().partials() : 0, size);
    bytes = scratch.used;
  }
};

// Sorts the errors of a group of classes and says what each counts for.
template <class T>
void run_lovasz_order(
    const LovaszExact<T>& p, const LovaszExactParts& part, bool with_slope, const Pointer<double>& sums,
    Stream stream) {
  using Acc = Accumulate<T>;
  using Key = typename ErrorKey<Acc>::type;
  constexpr int kPasses = ErrorKey<Acc>::passes;
  static_assert(kPasses % 2 == 0, "the first buffers hold the order in the end, and the second ones are free");
  const Pointer<Key> keys[2] = {p.keys, global<Key>(part.keys[1])};
  const Pointer<u32> order[2] = {global<u32>(part.order[0]), global<u32>(part.order[1])};
  const Pointer<u32> sizes = global<u32>(part.sizes);
  const Pointer<int> table = global<int>(part.table), digits = global<int>(part.digits);
  const u32 segments = static_cast<u32>(p.count);
  for (int pass = 0; pass < kPasses; ++pass) {
    const int from = pass % 2, to = 1 - from, bits = pass + 1 < kPasses ? kRadixBits : kRadixBits - 1;
    const RadixPass<Key> s{
        p.pixels, part.tiles, 1 + pass * kRadixBits, bits, pass == 0, keys[from], order[from], keys[to], order[to],
        table, digits, sizes};
    run_radix_pass(s, segments, stream);
  }
  const SortedErrors<Acc> s{
      p.pixels, part.tiles, p.first, p.cells.classes, p.keys, order[0], sizes, p.totals, global<int>(part.own),
      with_slope ? p.toward : Pointer<Acc>{}, sums};
  const dim3 tiles(static_cast<u32>(part.tiles), segments), block(kRadixThreads);
  const int room = (kScanBytes + 15) / 16 * 16 + kRadixWarps * static_cast<int>(sizeof(double));
  launch(lovasz_own<Acc>, tiles, block, kScanBytes, stream, s);
  launch(lovasz_steps<Acc>, tiles, block, room, stream, s);
}

inline void run_lovasz_exact(
    const LovaszProblem& p, const Card& card, const Buffer& scratch, Buffer loss, Buffer slope, Stream stream) {
  const LovaszExactParts part(p, scratch);
  with_type(p.scores.type, [&](auto kind) {
    using T = decltype(kind);
    using Acc = Accumulate<T>;
    using Key = typename ErrorKey<Acc>::type;
    const int classes = p.scores.classes;
    LovaszExact<T> s{
        p.pixels_of<T>(), p.pixels(), classes <= p.shared_totals, global<int>(part.totals), global<Key>(part.least),
        global<Acc>(part.most), global<Acc>(part.unit), global<Acc>(part.mean), 0, 0, global<Key>(part.keys[0]),
        global<Acc>(part.keys[1]), global<Acc>(part.partials)};
    const dim3 cell_threads(kCellThreads), blocks(static_cast<u32>(s.cells.blocks()));
    launch(
        lovasz_begin<Key>, dim3(static_cast<u32>(ceil_div(classes, kScanThreads))), dim3(kScanThreads), 0, stream,
        s.totals, s.least, classes);
    if (s.pixels) {
      const u32 most = static_cast<u32>(4 * std::max(1, card.multiprocessors));
      const int own = s.in_shared ? (classes + 3) / 4 * 16 + classes * static_cast<int>(sizeof(Key)) : 0;
      const dim3 walks(std::min(blocks.x, most));
      launch(lovasz_norms<T>, walks, cell_threads, CellShared<Acc>::table_at + own, stream, s);
    }
    const int nodes = CellShared<Acc>::own_at;
    const Pointer<double> sums = global<double>(part.sums);
    for (int first = 0; first < classes && blocks.x; first += part.group) {
      s.first = first;
      s.count = std::min(part.group, classes - first);
      if (s.pixels) {
        launch(lovasz_errors<T>, blocks, cell_threads, CellShared<Acc>::table_at, stream, s);
        run_lovasz_order(s, part, p.with_slope, sums, stream);
      }
      if (p.with_slope) launch(lovasz_slopes<T, false>, blocks, cell_threads, nodes, stream, s);
    }
    if (p.with_slope && !p.probabilities && blocks.x)
      launch(lovasz_slopes<T, true>, blocks, cell_threads, nodes, stream, s);
    run_totals<Acc>(sums, static_cast<i64>(classes) * part.tiles, 1, loss, stream);
    if (p.with_slope) run_gather<Acc>(s.cells, s.partials, slope, stream);
  });
}

// Bytes of scratch.
inline i64 lovasz_scratch(const LovaszProblem& p) {
  return p.bins ? LovaszBinParts(p, {nullptr, 0}).bytes : LovaszExactParts(p, {nullptr, 0}).bytes;
}

// A scalar, and with_slope the gradient (N, K, h, w).
inline void run_lovasz(
    const LovaszProblem& p, const Card& card, const Buffer& scratch, Buffer loss, Buffer slope, Stream stream) {
  if (p.bins) run_lovasz_bins(p, card, scratch, loss, slope, stream);
  else run_lovasz_exact(p, card, scratch, loss, slope, stream);
}

}  // namespace fastuda::cuda
#endif

#if !defined(FASTUDA_KERNELS_ONLY) && !defined(FASTUDA_EMULATION)
namespace fastuda::cuda {

std::tuple<Tensor, Tensor> lovasz_softmax_cuda(
    const Tensor& logits, const Tensor& target, int64_t bins, bool probabilities, bool align_corners,
    int64_t ignore_index, bool with_slope) {
  STD_TORCH_CHECK(
      target.dim() == 3 && logits.dim() == 4 && target.size(0) == logits.size(0),
      "logits must be (N, K, h, w) and target (N, H, W)");
  STD_TORCH_CHECK(0 <= bins && bins <= 65536, "bins must be between 0 and 65536");
  small(target.numel());
  const Device device(logits);
  const LovaszProblem p{
      score_buffer(logits, "logits"), upsample_axis(target.size(1), logits.size(2), align_corners),
      upsample_axis(target.size(2), logits.size(3), align_corners), pixel_buffer(target, false), label_bytes(target),
      ignore_index, static_cast<int>(bins), probabilities, with_slope};
  small(p.cells().blocks());
  const ScalarType type = statistic_type(p.scores.type);
  Tensor loss = torch::stable::new_empty(logits, std::vector<int64_t>{}, type);
  std::vector<int64_t> size{0};
  if (with_slope) size = {logits.size(0), logits.size(1), logits.size(2), logits.size(3)};
  Tensor slope = torch::stable::new_empty(logits, size, type);
  Tensor scratch = torch::stable::new_empty(logits, {lovasz_scratch(p)}, ScalarType::Byte);
  run_lovasz(p, device.card(), buffer(scratch), buffer(loss), buffer(slope), device.stream());
  return {loss, slope};
}

}  // namespace fastuda::cuda

STABLE_TORCH_LIBRARY_IMPL(fastuda, CUDA, m) {
  m.impl("lovasz_softmax_cuda", TORCH_BOX(&fastuda::cuda::lovasz_softmax_cuda));
}
#endif
