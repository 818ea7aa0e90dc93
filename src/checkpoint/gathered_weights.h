// Whole parameters on one rank, one at a time, from the parts that the ranks of a run have.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "parallel/parameter_store.h"

namespace nereus {

class GatheredWeights {
 public:
  struct Whole {
    std::string name;
    Shape shape;
  };

  // `mine`: what this rank has (f32, on the stream's device). `all`, the same on every rank: every
  // parameter, in the order in which they will be asked for.
  GatheredWeights(Stream&, Communicator& world, std::vector<Whole> all,
                  std::vector<NamedView> mine);

  // A collective. On rank 0 the elements of `all`'s i-th, in host memory until the next call;
  // elsewhere "no tensor". Throws Error{kContract} on rank 0 when no rank has some of them.
  ConstTensorView fetch(size_t i);

 private:
  // A rank's boxes of a parameter, up to kBoxes of them: has it, where it begins, its size.
  static constexpr int64_t kBoxes = 3, kHeader = 1 + 2 * Shape::kMaxRank;
  void send_rows(const TensorView& rows);
  void receive_rows(float* to, int64_t rows, int64_t width, int64_t stride, int from);

  Stream& stream_;
  Communicator& world_;
  std::vector<Whole> all_;
  std::vector<NamedView> mine_;
  Buffer headers_, staging_;
  std::vector<float> whole_, packed_;
};

}  // namespace nereus
