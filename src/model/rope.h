// The rotary tables of a run: cos and sin of position times frequency, for every position and every
// rotary pair, f32 [positions, Drope / 2]. The frequencies and the amplitude come from the model's
// arguments (config/model_args.h: rope_parameters, rope_frequencies; docs/numerics.md).
#pragma once

#include "config/model_args.h"
#include "device/device.h"

namespace nereus {

struct RopeTables {
  ConstTensorView cos, sin;  // f32 [positions, Drope / 2]
};

// Makes the tables in `buffer`, which it allocates on the stream's device and which must outlive
// the tables. Waits for the stream. On the meta device the views have shapes and no data.
RopeTables rope_tables(Stream&, const ModelArgs&, int64_t positions, Buffer& buffer);

}  // namespace nereus
