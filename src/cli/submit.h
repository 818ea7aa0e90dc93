// Jobs of the recipe into Slurm's queue, by llmb-run's rules and options.
#pragma once

namespace nereus {

int run_submit(int argc, char** argv);

}  // namespace nereus
