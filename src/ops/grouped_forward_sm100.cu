#include "ops/grouped_gemms.cuh"

namespace nereus::ops::cuda {

// Compiled but never run: no such GPU was available.
void grouped_forward_sm100(Stream& stream, const GroupedProblem& p) {
  run_grouped<ForwardProduct<TileOf<256, 256>, ClusterOf<2, 1>, Blackwell>>(stream,
                                                                            "grouped_matmul", p);
}

}  // namespace nereus::ops::cuda
