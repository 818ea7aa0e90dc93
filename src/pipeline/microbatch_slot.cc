#include "pipeline/microbatch_slot.h"

#include <cstring>

#include "base/check.h"
#include "parallel/context_region.h"

namespace nereus {
namespace {

TensorView token_row(const Buffer& buffer, int64_t tokens, int64_t row) {
  std::byte* data = buffer.data() == nullptr ? nullptr : buffer.data() + row * tokens * 4;
  return TensorView(data, DType::i32, {tokens});
}

int64_t aligned(int64_t bytes) {
  return (bytes + Arena::kAlignment - 1) / Arena::kAlignment * Arena::kAlignment;
}

}  // namespace

int64_t edge_bytes(std::span<const TensorSpec> specs) {
  int64_t end = 0;
  for (const TensorSpec& spec : specs) end = aligned(end) + spec.bytes();
  return end;
}

std::vector<TensorView> edge_tensors(std::byte* memory, std::span<const TensorSpec> specs) {
  std::vector<TensorView> out;
  int64_t end = 0;
  for (const TensorSpec& spec : specs) {
    const int64_t begin = aligned(end);
    out.emplace_back(memory == nullptr ? nullptr : memory + begin, spec.dtype, spec.shape);
    end = begin + spec.bytes();
  }
  return out;
}

MicrobatchSlot::MicrobatchSlot(Stream& stream, const PipelineStage& stage,
                               const MicrobatchShape& microbatch_shape)
    : shape(microbatch_shape),
      saved(stage.make_saved()),
      token_buffer_(stream.device(), 4 * 4 * shape.rows * shape.sequence / shape.cp, "token ids"),
      row_buffer_(stream.device(), shape.cp > 1 ? 4 * 4 * shape.rows * shape.sequence : 0,
                  "token ids of whole sequences"),
      staging_(stream.device(), stream.on_gpu() ? 2 * 4 * shape.rows * shape.sequence : 0,
               "token ids on their way to the GPU", Buffer::Kind::pinned),
      staged_(stream.device()) {
  const int64_t T = shape.rows * shape.sequence;
  ids_ = token_row(token_buffer_, T / shape.cp, 0);
  labels_ = token_row(token_buffer_, T / shape.cp, 1);
  positions_ = token_row(token_buffer_, T / shape.cp, 2);
  first_key_ = token_row(token_buffer_, T / shape.cp, 3);
  rows_ = {ids_, labels_, positions_, first_key_};
  if (shape.cp > 1)
    for (int64_t i = 0; i < 4; ++i) rows_[static_cast<size_t>(i)] = token_row(row_buffer_, T, i);
  input = edge_tensors(nullptr, stage.input_edge());
  output_gradient = edge_tensors(nullptr, stage.output_edge());
}

void MicrobatchSlot::load(Stream& stream, const HostMicrobatch& host, float loss_scale,
                          bool training) {
  NEREUS_CHECK(kContract,
               static_cast<int64_t>(host.ids.size()) == rows_[0].count() &&
                   host.labels.size() == host.ids.size(),
               "a microbatch of {} ids and {} labels where {} are expected", host.ids.size(),
               host.labels.size(), rows_[0].count());
  const void *ids = host.ids.data(), *labels = host.labels.data();
  if (staging_.bytes() > 0) {
    staged_.synchronize();  // with the copy of the slot's former microbatch
    std::byte* const staging = staging_.data();
    std::memcpy(staging, ids, host.ids.size_bytes());
    std::memcpy(staging + host.ids.size_bytes(), labels, host.labels.size_bytes());
    ids = staging;
    labels = staging + host.ids.size_bytes();
  }
  const auto& [row_ids, row_labels, row_positions, row_first_key] = rows_;
  copy_to_device(stream, row_ids, ids);
  copy_to_device(stream, row_labels, labels);
  staged_.record(stream);
  ops::document_bounds(stream, {.first_key = row_first_key,
                                .positions = row_positions,
                                .ids = row_ids,
                                .sequence = shape.sequence,
                                .eos_id = shape.eos_id,
                                .mask = shape.mask});
  if (shape.cp > 1) take_chunks(stream);
  microbatch = describe(loss_scale, training);
  microbatch.first_row = host.first_row;
}

// This rank's two chunks of every sequence: the first of all, then the second of all.
void MicrobatchSlot::take_chunks(Stream& stream) {
  const int64_t B = shape.rows, S = shape.sequence, chunk = S / (2 * shape.cp);
  const std::array<int64_t, 2> mine = chunks_of(shape.cp_rank, shape.cp);
  const std::array<TensorView, 4> out{ids_, labels_, positions_, first_key_};
  for (size_t i = 0; i < out.size(); ++i)
    for (int64_t run = 0; run < 2; ++run) {
      const int64_t begin = mine[static_cast<size_t>(run)] * chunk;
      copy_rows(stream, out[i].reshape({2 * B, chunk}).rows(run * B, (run + 1) * B),
                rows_[i].reshape({B, S}).columns(begin, begin + chunk));
    }
}

Microbatch MicrobatchSlot::describe(float loss_scale, bool training) const {
  Microbatch mb{.ids = ids_,
                .labels = labels_,
                .positions = positions_,
                .first_key = first_key_,
                .sequence = shape.sequence,
                .key_positions = {},
                .mask = shape.mask,
                .loss_scale = loss_scale,
                .training = training};
  if (shape.cp == 1) return mb;
  const int64_t chunk = shape.sequence / (2 * shape.cp);
  const std::array<int64_t, 2> mine = chunks_of(shape.cp_rank, shape.cp);
  mb.sequence = chunk;
  mb.key_sequence = shape.sequence;
  mb.key_positions = rows_[2];
  mb.chunks = 2;
  mb.chunk_start = {mine[0] * chunk, mine[1] * chunk};
  return mb;
}

}  // namespace nereus
