#include "doctor/gpu_checks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace nereus::doctor {
namespace {

using testing::HasSubstr;

// "GPU 1 memory FAILED 3 uncorrected ..." of each.
std::vector<std::string> lines(const std::vector<Finding>& findings) {
  std::vector<std::string> out;
  for (const Finding& f : findings)
    out.push_back(f.check +
                  (f.verdict == Verdict::failed    ? " FAILED "
                   : f.verdict == Verdict::warning ? " warning "
                                                   : " ok ") +
                  f.found);
  return out;
}

TEST(Gpus, AreReadThroughNvml) {
  const GpuInventory inventory = read_gpus(NEREUS_FAKE_NVML);
  EXPECT_EQ(inventory.error, "");
  ASSERT_EQ(inventory.gpus.size(), 3u);
  EXPECT_EQ(inventory.gpus[0].bus, "00000000:18:00.0");
  EXPECT_EQ(inventory.gpus[1].processes, (std::vector<unsigned>{100, 101}));
  EXPECT_FALSE(inventory.gpus[0].mig.has_value());
  EXPECT_THAT(
      lines(judge_gpus(inventory, 0)),
      testing::ElementsAre(
          "GPUs ok 3 x NVIDIA H100 80GB HBM3", "driver ok 550.54.15, CUDA 13.0",
          "GPU 0 ok NVIDIA H100 80GB HBM3, 80 GiB, 31 C, 72 of 700 W, 345 of 1980 MHz, no ECC "
          "error, 18 NVLinks",
          "GPU 1 memory FAILED 3 uncorrected ECC errors since the driver was loaded",
          "GPU 1 memory FAILED row remapping failed: a faulty row of memory has no spare",
          "GPU 1 memory warning row remapping pending: a reset is needed",
          "GPU 1 memory warning ECC is off: bit flips go undetected",
          "GPU 1 clock FAILED throttled by the hardware, too hot: 345 of 1980 MHz",
          "GPU 1 temperature warning 86 C before the run, and clocks fall at 89 C",
          "GPU 1 power warning limited to 500 W, 700 W is its default",
          "GPU 1 PCIe warning 8 of 16 lanes", "GPU 1 NVLink FAILED 17 of 18 links are up",
          "GPU 1 NVLink warning 9 replays, recoveries and checksum errors",
          "GPU 1 fabric FAILED its start is in progress",
          "GPU 1 users warning 5.0 GiB in use, by processes 100, 101",
          "GPU 2 FAILED the driver cannot use it: GPU is lost"));
}

TEST(Gpus, AMachineWithoutADriverSaysSoAndGoesOn) {
  const GpuInventory none = read_gpus("libno-such-nvml.so.1");
  const Finding f = judge_gpus(none, 0).at(0);
  EXPECT_EQ(f.verdict, Verdict::warning);
  EXPECT_EQ(f.found, "none: libno-such-nvml.so.1 is not on this machine: it has no NVIDIA driver");
  EXPECT_THAT(f.remedy, HasSubstr("--device.kind=cpu"));
  const Finding wanted = judge_gpus(none, 8).at(0);
  EXPECT_EQ(wanted.verdict, Verdict::failed);
  EXPECT_THAT(wanted.found, HasSubstr("none, 8 are expected: "));
}

GpuInventory healthy(size_t n) {
  GpuInventory out{.driver = "570.1.2", .cuda = 13000};
  for (size_t i = 0; i < n; ++i) {
    GpuFacts g;
    g.index = static_cast<int>(i);
    g.name = "NVIDIA H100 80GB HBM3";
    out.gpus.push_back(g);
  }
  return out;
}

TEST(Gpus, TooFewAreAFailure) {
  const Finding f = judge_gpus(healthy(7), 8).at(0);
  EXPECT_EQ(f.verdict, Verdict::failed);
  EXPECT_EQ(f.found, "7 x NVIDIA H100 80GB HBM3, 8 are expected");
  EXPECT_THAT(f.remedy, HasSubstr("fallen off the bus"));
  EXPECT_EQ(judge_gpus(healthy(8), 8).at(0).verdict, Verdict::ok);
  GpuInventory mixed = healthy(2);
  mixed.gpus[1].name = "NVIDIA A100";
  EXPECT_EQ(judge_gpus(mixed, 0).at(0).verdict, Verdict::warning);
}

TEST(Gpus, ADriverOlderThanTheRecipeNeedsIsAFailure) {
  for (const auto& [version, old] : std::map<std::string, bool>{{"535.129.03", false},
                                                                {"535.104.12", true},
                                                                {"470.1", true},
                                                                {"535.129", false},
                                                                {"550.54.15", false}}) {
    GpuInventory i = healthy(1);
    i.driver = version;
    EXPECT_EQ(judge_gpus(i, 0).at(1).verdict == Verdict::failed, old) << version;
  }
}

TEST(Gpus, WhatAGpuDoesNotTellIsNotJudged) {
  EXPECT_THAT(lines(judge_gpus(healthy(1), 1)),
              testing::Contains("GPU 0 ok NVIDIA H100 80GB HBM3, 0 GiB"));
}

TEST(Gpus, TheReasonsOfSlowClocksAreTold) {
  const auto told = [](uint64_t why) {
    GpuInventory i = healthy(1);
    i.gpus[0].slowdown = why;
    return lines(judge_gpus(i, 0)).back();
  };
  EXPECT_EQ(told(slowdown::kPowerBrake | slowdown::kHardware),
            "GPU 0 clock FAILED throttled by the power brake (the node's power supply)");
  EXPECT_EQ(told(slowdown::kHardware), "GPU 0 clock FAILED throttled by the hardware");
  EXPECT_EQ(told(slowdown::kSoftwareThermal),
            "GPU 0 clock warning throttled by the driver, too hot");
  EXPECT_EQ(told(slowdown::kApplicationClocks),
            "GPU 0 clock warning throttled by application clocks that were set");
  EXPECT_THAT(told(slowdown::kIdle | slowdown::kPowerCap), HasSubstr("GPU 0 ok"));
}

TEST(Peers, ASlowPairAndAMissingWayAreNamed) {
  const Finding good = judge_peers({{0, 390e9, 391e9}, {392e9, 0, 390e9}, {390e9, 390e9, 0}});
  EXPECT_EQ(good.verdict, Verdict::ok);
  EXPECT_EQ(good.found, "6 pairs, 390 to 392 GB/s");
  const Finding slow = judge_peers({{0, 390e9, 40e9}, {392e9, 0, 390e9}, {390e9, -1, 0}});
  EXPECT_EQ(slow.verdict, Verdict::warning);
  EXPECT_EQ(slow.found, "5 pairs, 40 to 392 GB/s; slow: 0 to 2");
  const Finding apart = judge_peers({{0, -1}, {-1, 0}});
  EXPECT_EQ(apart.verdict, Verdict::warning);
  EXPECT_EQ(apart.found, "no peer access between any two GPUs");
  EXPECT_THAT(apart.remedy, HasSubstr("No peer access from 0 to 1, 1 to 0"));
}

}  // namespace
}  // namespace nereus::doctor
