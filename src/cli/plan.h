#pragma once

namespace nereus {

// `nereus plan`: a pipeline's schedule, its idle time and activations, before a GPU is asked for.
int run_plan(int argc, char** argv);

}  // namespace nereus
