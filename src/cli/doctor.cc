#include "cli/doctor.h"

#include <CLI/CLI.hpp>
#include <cstdio>

#include "cli/command.h"
#include "doctor/doctor.h"

namespace nereus {
namespace {

constexpr int kSomethingFailed = 3;  // docs/operations.md

}  // namespace

int run_doctor(int argc, char** argv) {
  CLI::App app(
      "Check this machine before a run: GPUs (clocks, ECC, throttling, temperature, power, "
      "NVLink),\n"
      "driver and libraries, InfiniBand, limits, shared memory, folders, clock, hub. Says what is\n"
      "wrong and what to do.\n\n"
      "Exit codes: 0 nothing failed, 3 something did (with --strict, a warning too).",
      "nereus doctor");
  doctor::Options options;
  bool no_hub = false, no_peers = false, as_json = false, brief = false, strict = false;
  int64_t mib = options.write_bytes >> 20;
  app.add_option("--gpus", options.gpus, "GPUs that the node must have")->check(CLI::Range(0, 64));
  app.add_option("--folder", options.folders, "folder to be written to: space, speed; repeatable");
  app.add_option("--write-mib", mib, "how much to write into each folder")
      ->capture_default_str()
      ->check(CLI::Range(1, 65536));
  app.add_option("--time-server", options.time_server,
                 "HOST[:PORT] that speaks NTP, to compare the clock with; default the hub's clock");
  app.add_flag("--no-hub", no_hub, "do not ask the hub: compute nodes often cannot reach it");
  app.add_flag("--no-peers", no_peers, "do not measure the bandwidth between GPUs");
  app.add_flag("--brief", brief, "only what is wrong, with the host's name: for many nodes");
  app.add_flag("--json", as_json, "as JSON");
  app.add_flag("--strict", strict, "warnings count as failures");
  if (const std::optional<int> done = parse_command(app, argc, argv)) return *done;
  options.write_bytes = mib << 20;
  options.peers = !no_peers;
  if (!no_hub) options.hub = hub::HubSettings::from_environment();
  const doctor::Report report = doctor::examine(options);
  std::fputs((as_json ? doctor::json(report) : doctor::table(report, brief)).c_str(), stdout);
  const bool wrong = report.count(doctor::Verdict::failed) > 0 ||
                     (strict && report.count(doctor::Verdict::warning) > 0);
  return wrong ? kSomethingFailed : 0;
}

}  // namespace nereus
