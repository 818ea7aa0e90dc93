#include "ops/grouped_gemms.cuh"

namespace nereus::ops::cuda {

// Compiled but never run: no such GPU was available.
void grouped_wgrad_sm100(Stream& stream, const GroupedProblem& p) {
  run_grouped<WgradProduct<TileOf<256, 128>, ClusterOf<2, 1>, Blackwell>>(stream, "grouped_wgrad",
                                                                          p);
}

}  // namespace nereus::ops::cuda
