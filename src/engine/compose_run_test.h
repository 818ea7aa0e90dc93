// A draw of the composition test, computed: by many ranks, by one, and what differs.
#pragma once

#include <map>
#include <span>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "engine/compose_draw_test.h"

namespace nereus::compose {

// The first value of element `index` of a parameter or bias, in f32. Every part of the model has a
// say: latents, scores and logits of order 1, routers that are sure. `noise`: times 1 + 1e-7 z,
// with another z for each noise; 0: none.
float initial_value(const Draw&, const std::string& name, int64_t index, const Shape& whole,
                    int noise);

// f(index in the parameter, element) of every element of a view, through a copy on the host; f may
// change them.
void each_element(Stream&, const NamedView&, FunctionRef<void(int64_t, float&)> f);

// Tokens of `rows` rows, from those of the global batch numbered `batch` on.
struct Tokens {
  Tokens(const Draw&, int64_t batch, int64_t rows);
  std::vector<int32_t> ids, labels;
  int64_t counted = 0;  // labels that are not ignored
};

struct Outcome {
  std::vector<double> losses, norms, loads;  // by step; of the busiest expert over the mean
  double validation = 0;
  std::map<std::string, std::vector<double>> before, after;  // by name: whole tensors
  std::vector<std::string> wrong;                            // replicas that differ
  int64_t reruns = 0;
};

enum class States { whole, as_drawn };
// What a test plants to see that it is found: every rank divides by its own labels, so that the
// loss is the mean of the ranks' means.
enum class Fault { none, mean_of_means };

// All steps of the draw by its ranks, as threads.
Outcome run_layout(const Draw&, int noise, DType compute = DType::f32,
                   States states = States::whole, Fault fault = Fault::none);
// The same by one rank: all rows of the batch in one microbatch, everything kept.
Outcome run_one_rank(const Draw&, int noise, Device device = Device::cpu());
// The same by a rank whose others are processes: its own part of the tensors, NaN elsewhere.
Outcome run_process(const Draw&, int noise, Communicator& all, Device);

// What is above tolerance, a line for each quantity. `apart`: one rank's outcomes with noises, of
// which the tolerance follows where they are far apart: the draw is ill-conditioned, and rounding
// has as much room.
std::vector<std::string> differences(const Draw&, const Outcome& got, const Outcome& want,
                                     std::span<const Outcome> apart = {});
// What is not the same to the bit.
std::vector<std::string> bits_apart(const Outcome& got, const Outcome& want);

}  // namespace nereus::compose
