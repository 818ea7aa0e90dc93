// `nereus bench checkpoint`: what saving costs a run, and how fast states go to files and back,
// next to what the machine can do.
#pragma once

namespace nereus {

int run_bench_checkpoint(int argc, char** argv);

}  // namespace nereus
