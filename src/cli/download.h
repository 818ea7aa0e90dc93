// `nereus download`: tokenizer, data set and weights from the hub.
#pragma once

namespace nereus {

int run_download_command(int argc, char** argv);

}  // namespace nereus
