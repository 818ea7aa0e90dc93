// An error that the user has been shown already, by another rank: it only ends this one.
#pragma once

#include "base/error.h"

namespace nereus {

class ShownError : public Error {
  using Error::Error;
};

}  // namespace nereus
