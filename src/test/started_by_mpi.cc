#include "test/started_by_mpi.h"

#include <cstdlib>
#include <initializer_list>

namespace nereus::test {

bool started_by_mpi() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"}) {
    const char* value = std::getenv(name);
    if (value != nullptr && std::atoi(value) > 1) return true;
  }
  return false;
}

}  // namespace nereus::test
