// The program under the name llmb-run: its commands, and its exit codes: 0, 1 for what the
// user got wrong, 2 for what the system refused.
#pragma once

namespace nereus {

int run_llmb_run(int argc, char** argv);

}  // namespace nereus
