// What stages of a pipeline make for each other. Stage s gives stage s + 1 the activation of a
// microbatch and gets its gradient back; each of the two is an edge, produced by one action and
// read by one other. Whoever orders, simulates, sizes or runs a schedule asks here what an action
// needs and what it produces.
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>

namespace nereus {

struct Action;

struct Edge {
  enum class Kind : uint8_t { activation, gradient };

  int consumer = 0;  // the stage that reads it
  int microbatch = 0;
  Kind kind = Kind::activation;

  int producer() const { return kind == Kind::activation ? consumer - 1 : consumer + 1; }
  auto operator<=>(const Edge&) const = default;
};

// The edges of one action: at most an activation (of its forward) and a gradient (of its dgrad).
class EdgeList {
 public:
  void add(const Edge& edge) { edges_[size_++] = edge; }
  const Edge* begin() const { return edges_.data(); }
  const Edge* end() const { return edges_.data() + size_; }

 private:
  std::array<Edge, 2> edges_;
  size_t size_ = 0;
};

// Of an action that computes, in a pipeline of `stages` stages: the first needs no activation and
// the last no gradient. Other actions have none.
EdgeList edges_needed(const Action&, int stages);
EdgeList edges_produced(const Action&, int stages);

// The edge that a send, recv or wait is about.
Edge edge_of(const Action&);

}  // namespace nereus
