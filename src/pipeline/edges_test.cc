#include "pipeline/edges.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "pipeline/schedule.h"

namespace nereus {
namespace {

using Kind = Action::Kind;
using testing::ElementsAre;
using testing::IsEmpty;

constexpr int kStages = 4;

std::vector<Edge> needed(const Action& a) {
  const EdgeList edges = edges_needed(a, kStages);
  return {edges.begin(), edges.end()};
}
std::vector<Edge> produced(const Action& a) {
  const EdgeList edges = edges_produced(a, kStages);
  return {edges.begin(), edges.end()};
}
Edge activation(int consumer, int microbatch) {
  return {consumer, microbatch, Edge::Kind::activation};
}
Edge gradient(int consumer, int microbatch) { return {consumer, microbatch, Edge::Kind::gradient}; }

TEST(Edges, AForwardTakesAnActivationAndMakesTheNextStagesOne) {
  const auto f = [](int stage) {
    return Action{.kind = Kind::forward, .stage = stage, .microbatch = 7};
  };
  EXPECT_THAT(needed(f(1)), ElementsAre(activation(1, 7)));
  EXPECT_THAT(produced(f(1)), ElementsAre(activation(2, 7)));
  EXPECT_THAT(needed(f(0)), IsEmpty()) << "the first stage has the tokens";
  EXPECT_THAT(produced(f(3)), IsEmpty()) << "the last stage has the loss";
  EXPECT_EQ(activation(2, 7).producer(), 1);
}

TEST(Edges, ADgradTakesAGradientAndMakesThatOfTheStageBefore) {
  for (const Kind kind : {Kind::backward, Kind::backward_input}) {
    const auto b = [kind](int stage) {
      return Action{.kind = kind, .stage = stage, .microbatch = 7};
    };
    EXPECT_THAT(needed(b(1)), ElementsAre(gradient(1, 7)));
    EXPECT_THAT(produced(b(1)), ElementsAre(gradient(0, 7)));
    EXPECT_THAT(needed(b(3)), IsEmpty());
    EXPECT_THAT(produced(b(0)), IsEmpty());
  }
  EXPECT_EQ(gradient(0, 7).producer(), 1);
}

TEST(Edges, AForwardAndABackwardInOneHaveTheEdgesOfBoth) {
  const Action fb{.kind = Kind::forward_backward,
                  .stage = 1,
                  .microbatch = 5,
                  .backward_stage = 2,
                  .backward_microbatch = 3};
  EXPECT_THAT(needed(fb), ElementsAre(activation(1, 5), gradient(2, 3)));
  EXPECT_THAT(produced(fb), ElementsAre(activation(2, 5), gradient(1, 3)));
}

TEST(Edges, WgradsAndWhatDoesNotComputeHaveNone) {
  for (const Kind kind : {Kind::backward_weight, Kind::gather, Kind::reduce, Kind::update,
                          Kind::send, Kind::recv, Kind::wait}) {
    EXPECT_THAT(needed({.kind = kind, .stage = 1}), IsEmpty());
    EXPECT_THAT(produced({.kind = kind, .stage = 1}), IsEmpty());
  }
}

TEST(Edges, ASendNamesItsProducerAndAReceiveItsConsumer) {
  const auto of = [](Kind kind, int stage, Edge::Kind edge) {
    return edge_of({.kind = kind, .stage = stage, .microbatch = 2, .edge = edge, .peer = 1});
  };
  EXPECT_EQ(of(Kind::send, 1, Edge::Kind::activation), activation(2, 2));
  EXPECT_EQ(of(Kind::send, 1, Edge::Kind::gradient), gradient(0, 2));
  for (const Kind kind : {Kind::recv, Kind::wait}) {
    EXPECT_EQ(of(kind, 1, Edge::Kind::activation), activation(1, 2));
    EXPECT_EQ(of(kind, 1, Edge::Kind::gradient), gradient(1, 2));
  }
}

}  // namespace
}  // namespace nereus
