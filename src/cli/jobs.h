// The jobs that were submitted: their states, speed and logs.
#pragma once

namespace nereus {

int run_jobs(int argc, char** argv);

}  // namespace nereus
