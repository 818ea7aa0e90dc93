// What one microbatch has on one stage, from the arrival of its input to its last wgrad: its
// tokens, the edges that arrive, and the arenas in which the stage's passes leave what they keep.
// Made before the first step; microbatches use it one after the other, each with edges and arenas
// at places of its own (pipeline/memory_plan.h).
#pragma once

#include <array>
#include <memory>
#include <span>
#include <vector>

#include "device/device.h"
#include "model/pipeline_stage.h"

namespace nereus {

// Token ids of a microbatch on the host, rows of `sequence` tokens.
struct HostMicrobatch {
  std::span<const int32_t> ids, labels;
  int64_t first_row = 0;  // of its rows, in the step's global batch
};

struct MicrobatchShape {
  int64_t rows = 1;         // B, sequences a microbatch
  int64_t sequence = 1;     // S, tokens a sequence
  int cp = 1, cp_rank = 0;  // this rank's chunks of each sequence (parallel/context_region.h)
  ops::AttentionMask mask = ops::AttentionMask::causal;
  int32_t eos_id = -1;  // ends a document, for AttentionMask::document
};

// The bytes of an edge's tensors, one after the other in one block.
int64_t edge_bytes(std::span<const TensorSpec>);
// The tensors there; without data when `memory` is null.
std::vector<TensorView> edge_tensors(std::byte* memory, std::span<const TensorSpec>);

class MicrobatchSlot {
 public:
  // On the meta device views have no data.
  MicrobatchSlot(Stream&, const PipelineStage&, const MicrobatchShape&);

  // Brings ids and labels to the device, makes what follows from them, and sets `microbatch`.
  // Throws Error{kContract} when there are not rows * sequence of each.
  void load(Stream&, const HostMicrobatch&, float loss_scale, bool training);
  // What stages get to know of a microbatch that is in this memory.
  Microbatch describe(float loss_scale, bool training) const;

  // What forward keeps until dgrad, and until wgrad: one arena, or two when wgrad is apart from
  // dgrad.
  Arena& for_dgrad() { return arenas.front(); }
  Arena& for_wgrad() { return arenas.size() > 1 ? arenas[1] : arenas[0]; }
  // What dgrad leaves for wgrad, when they are apart.
  Arena& pending() { return arenas.back(); }

  int64_t token_bytes() const { return token_buffer_.bytes() + row_buffer_.bytes(); }

  MicrobatchShape shape;
  std::vector<TensorView> input, output_gradient;  // edges that arrive
  std::vector<Arena> arenas;                       // one, or three
  std::unique_ptr<PipelineStage::Saved> saved;
  Microbatch microbatch;

 private:
  void take_chunks(Stream&);

  Buffer token_buffer_, row_buffer_;  // this rank's tokens, and with cp those of whole sequences
  Buffer staging_;                    // pinned: ids and labels on their way to a GPU
  Event staged_;                      // the staging memory has been read
  TensorView ids_, labels_, positions_, first_key_;  // i32 [T]
  std::array<TensorView, 4> rows_;  // the same of whole sequences; with cp of one rank themselves
};

}  // namespace nereus
