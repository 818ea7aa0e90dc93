// The device that device.kind, or a subcommand's --device, asks for.
#pragma once

#include "config/choices.h"
#include "device/device.h"

namespace nereus {

inline Device choose_device(DeviceChoice kind) {
  switch (kind) {
    case DeviceChoice::cpu:
      return Device::cpu();
    case DeviceChoice::cuda:
      return choose_device(Device::Kind::cuda);
    case DeviceChoice::automatic:
      break;
  }
  return choose_device(std::nullopt);
}

}  // namespace nereus
