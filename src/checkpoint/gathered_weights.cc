#include "checkpoint/gathered_weights.h"

#include <algorithm>
#include <array>
#include <set>

#include "base/check.h"

namespace nereus {
namespace {

constexpr int64_t kStaging = 4 << 20;  // elements

struct Box {
  Shape origin, size;
};

// A parameter's last dim is its width, all before it are rows; of experts, row by row of each.
struct Panels {
  int64_t count = 1, rows = 1, width = 1;
};
Panels panels(const Shape& s) {
  if (s.rank() == 1) return {.width = s[0]};
  if (s.rank() == 2) return {.rows = s[0], .width = s[1]};
  return {.count = s[0], .rows = s[1], .width = s[2]};
}

int64_t rows_a_piece(int64_t width) { return std::max<int64_t>(1, kStaging / width); }

}  // namespace

GatheredWeights::GatheredWeights(Stream& stream, Communicator& world, std::vector<Whole> all,
                                 std::vector<NamedView> mine)
    : stream_(stream),
      world_(world),
      all_(std::move(all)),
      mine_(std::move(mine)),
      headers_(stream.device(), (world.size() + 1) * kBoxes * kHeader * 8,
               "who has which weights") {
  int64_t widest = kStaging;
  for (const Whole& w : all_) widest = std::max(widest, panels(w.shape).width);
  staging_ = Buffer(stream.device(), widest * 4, "weights on their way");
}

void GatheredWeights::send_rows(const TensorView& rows) {
  const int64_t width = rows.dim(1), piece = rows_a_piece(width);
  for (int64_t row = 0; row < rows.dim(0); row += piece) {
    const TensorView from = rows.rows(row, std::min(rows.dim(0), row + piece));
    const TensorView packed(staging_.data(), DType::f32, from.shape);
    copy_rows(stream_, packed, from);
    world_.send(stream_, packed, 0);
    stream_.synchronize();
  }
}

void GatheredWeights::receive_rows(float* to, int64_t rows, int64_t width, int64_t stride,
                                   int from) {
  const int64_t piece = rows_a_piece(width);
  packed_.resize(static_cast<size_t>(std::min(rows, piece) * width));
  for (int64_t row = 0; row < rows; row += piece) {
    const int64_t n = std::min(rows - row, piece);
    const TensorView packed(staging_.data(), DType::f32, {n, width});
    world_.recv(stream_, packed, from);
    copy_to_host(stream_, packed_.data(), packed);
    stream_.synchronize();
    for (int64_t r = 0; r < n; ++r)
      std::copy_n(packed_.data() + r * width, width, to + (row + r) * stride);
  }
}

ConstTensorView GatheredWeights::fetch(size_t i) {
  const Whole& parameter = all_[i];
  const int rank = parameter.shape.rank();
  std::vector<const NamedView*> boxes;
  std::array<int64_t, kBoxes * kHeader> mine{};
  for (const NamedView& v : mine_) {
    if (v.name != parameter.name) continue;
    NEREUS_CHECK(kContract, static_cast<int64_t>(boxes.size()) < kBoxes, "{}: {} boxes on a rank",
                 v.name, boxes.size() + 1);
    int64_t* const header = mine.data() + static_cast<int64_t>(boxes.size()) * kHeader;
    boxes.push_back(&v);
    header[0] = 1;
    for (int d = 0; d < rank; ++d) {
      header[1 + d] = v.origin.rank() > 0 ? v.origin[d] : 0;
      header[1 + Shape::kMaxRank + d] = v.view.dim(d);
    }
  }
  const TensorView all(headers_.data(), DType::i64, {world_.size(), kBoxes * kHeader});
  const TensorView own(headers_.data() + all.bytes(), DType::i64, {1, kBoxes * kHeader});
  copy_to_device(stream_, own, mine.data());
  world_.all_gather(stream_, all, own);
  std::vector<int64_t> headers(static_cast<size_t>(all.count()));
  copy_to_host(stream_, headers.data(), all);
  stream_.synchronize();

  const bool root = world_.rank() == 0;
  if (root) whole_.assign(static_cast<size_t>(parameter.shape.count()), 0.0f);
  const Panels whole = panels(parameter.shape);
  std::set<std::vector<int64_t>> seen;  // of equal parts the first rank's is taken
  int64_t elements = 0;
  for (int64_t i_box = 0; i_box < world_.size() * kBoxes; ++i_box) {
    const auto r = static_cast<int>(i_box / kBoxes);
    const auto box = static_cast<size_t>(i_box % kBoxes);
    const int64_t* h = headers.data() + i_box * kHeader;
    if (h[0] == 0 || !seen.insert(std::vector<int64_t>(h, h + kHeader)).second) continue;
    Shape origin = parameter.shape, size = parameter.shape;
    for (int d = 0; d < rank; ++d) {
      origin[d] = h[1 + d];
      size[d] = h[1 + Shape::kMaxRank + d];
    }
    elements += size.count();
    const Panels part = panels(size);
    const int64_t first_panel = rank > 2 ? origin[0] : 0,
                  first_row = rank > 1 ? origin[rank - 2] : 0;
    for (int64_t p = 0; p < part.count; ++p) {
      const auto rows = [&] {
        if (rank == 3) return boxes[box]->view[p];
        if (rank == 2) return boxes[box]->view;
        return boxes[box]->view.reshape({1, boxes[box]->view.dim(0)});
      };
      if (!root) {
        if (r == world_.rank()) send_rows(rows());
        continue;
      }
      float* const to = whole_.data() + ((first_panel + p) * whole.rows + first_row) * whole.width +
                        origin[rank - 1];
      if (r != 0) {
        receive_rows(to, part.rows, part.width, whole.width, r);
        continue;
      }
      for (int64_t row = 0; row < part.rows; ++row)
        copy_to_host(stream_, to + row * whole.width, rows()[row]);
      stream_.synchronize();
    }
  }
  if (!root) return {};
  NEREUS_CHECK(kContract, elements == parameter.shape.count(),
               "{}: the ranks have {} of {} elements", parameter.name, elements,
               parameter.shape.count());
  return ConstTensorView(reinterpret_cast<const std::byte*>(whole_.data()), DType::f32,
                         parameter.shape);
}

}  // namespace nereus
