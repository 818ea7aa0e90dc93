#include "pipeline/edges.h"

#include "pipeline/schedule.h"

namespace nereus {

EdgeList edges_needed(const Action& a, int stages) {
  EdgeList out;
  if (a.has_forward() && a.stage > 0) out.add({a.stage, a.microbatch, Edge::Kind::activation});
  if (a.has_dgrad() && a.dgrad_stage() + 1 < stages)
    out.add({a.dgrad_stage(), a.dgrad_microbatch(), Edge::Kind::gradient});
  return out;
}

EdgeList edges_produced(const Action& a, int stages) {
  EdgeList out;
  if (a.has_forward() && a.stage + 1 < stages)
    out.add({a.stage + 1, a.microbatch, Edge::Kind::activation});
  if (a.has_dgrad() && a.dgrad_stage() > 0)
    out.add({a.dgrad_stage() - 1, a.dgrad_microbatch(), Edge::Kind::gradient});
  return out;
}

Edge edge_of(const Action& a) {
  const int step = a.edge == Edge::Kind::activation ? 1 : -1;
  return {a.kind == Action::Kind::send ? a.stage + step : a.stage, a.microbatch, a.edge};
}

}  // namespace nereus
