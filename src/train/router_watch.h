// What a layer's router makes of a microbatch: statistics of its logits z, taken on the host from
// the first microbatch of a step that is watched. With lse = ln sum_e exp z_e of a token:
//
//   z_loss     mean of lse^2 over tokens: what a z-loss would be (ST-MoE, arXiv 2202.08906, eq. 5)
//   lse        mean of lse
//   logit_max  largest |z|
#pragma once

#include <vector>

#include "observe/expert_table.h"
#include "parallel/layer_context.h"

namespace nereus {

class RouterWatch final : public Observer {
 public:
  explicit RouterWatch(size_t layers) : seen_(layers), figures_(layers) {}  // of the model

  void begin();  // of a step
  void see(Stream&, const char* what, int64_t layer, ConstTensorView) override;
  const RouterFigures& of(int64_t layer) const { return figures_[static_cast<size_t>(layer)]; }

 private:
  std::vector<char> seen_;
  std::vector<RouterFigures> figures_;
  std::vector<std::byte> bytes_;
};

}  // namespace nereus
