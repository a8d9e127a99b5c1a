// Chunks of output rows and their partial gradients, added up in order: no result depends on the number of threads.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/upsample_tile.h"

namespace fastuda {

template <class Acc>
struct NodeSums {
  const Upsampling<Acc>& up;
  const std::vector<RowChunk>& chunks;
  Acc* partials;  // null without a gradient
  Acc* slope;  // (N, K, h, w) of K = all_classes, those of `up` from first_class on
  int64_t first_class, all_classes;
  bool more;  // whether the slope is added to

  // Elements of the partial sums of all images.
  static int64_t size(const Upsampling<Acc>& up, const std::vector<RowChunk>& chunks) {
    return up.same_size() ? 1 : up.scores.images * image_rows(chunks) * up.node_row();
  }
  static int64_t image_rows(const std::vector<RowChunk>& chunks) {
    return chunks.empty() ? 0 : chunks.back().offset + chunks.back().nodes;
  }
  int64_t items() const { return up.scores.images * static_cast<int64_t>(chunks.size()); }
  const RowChunk& chunk(int64_t item) const { return chunks[item % chunks.size()]; }
  int64_t image(int64_t item) const { return item / static_cast<int64_t>(chunks.size()); }

  Acc* partial(int64_t image, const RowChunk& c) const {
    return partials + (image * image_rows(chunks) + c.offset) * up.node_row();
  }
  Acc* result(int64_t image, int64_t row) const {
    return slope + ((image * all_classes + first_class) * up.scores.height + row) * up.scores.width;
  }
  // Where the gradient of an item goes; partial sums are set to zero.
  SlopePlace<Acc> place(int64_t item) const {
    if (!partials) return {nullptr, nullptr, false};
    if (up.same_size()) return {nullptr, result(image(item), 0), more};
    Acc* const to = partial(image(item), chunk(item));
    std::fill(to, to + chunk(item).nodes * up.node_row(), Acc(0));
    return {to, nullptr, false};
  }
};

// Rows [begin, end) of nodes of all images.
template <class Acc>
FASTUDA_INLINE void gather_rows(const NodeSums<Acc>& s, int64_t begin, int64_t end) {
  if (s.up.same_size()) return;
  const ScoreView& view = s.up.scores;
  std::vector<const Acc*> parts(s.chunks.size());
  for (int64_t i = begin; i < end; ++i) {
    const int64_t image = i / view.height, row = i % view.height;
    int64_t count = 0;
    for (const RowChunk& c : s.chunks)
      if (c.first_node <= row && row < c.first_node + c.nodes)
        parts[count++] = s.partial(image, c) + (row - c.first_node) * s.up.node_row();
    gather_nodes<Acc>(
        parts.data(), count, view.classes, view.width, view.height * view.width, s.more, s.result(image, row));
  }
}

}  // namespace fastuda
