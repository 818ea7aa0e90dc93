// `nereus top`: a run's figures on the terminal while it goes on.
#pragma once

namespace nereus {

int run_top(int argc, char** argv);

}  // namespace nereus
