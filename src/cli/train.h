// nereus train
#pragma once

namespace nereus {

// Arguments after `nereus train`. Returns the exit code; throws Error.
int run_train(int argc, char** argv);

}  // namespace nereus
