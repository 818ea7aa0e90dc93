#include "device/nvtx.h"

namespace nereus::nvtx {

#ifndef NEREUS_CUDA
bool attached() { return false; }
void push(const char*) {}
void pop() {}
#endif

}  // namespace nereus::nvtx
