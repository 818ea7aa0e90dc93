#include "doctor/host_checks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>

namespace nereus::doctor {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::StartsWith;

class Folder {
 public:
  explicit Folder(const std::string& name)
      : path(fs::path(testing::TempDir()) / (name + std::to_string(getpid()))) {
    fs::create_directories(path);
  }
  ~Folder() { fs::remove_all(path); }
  void file(const std::string& name, const std::string& text) const {
    fs::create_directories((path / name).parent_path());
    std::ofstream(path / name) << text;
  }
  fs::path path;
};

TEST(HostLimits, ThoseThatEndRunsFail) {
  const auto verdicts = [](const Limits& l, bool rdma) {
    std::vector<Verdict> out;
    for (const Finding& f : judge_limits(l, rdma)) out.push_back(f.verdict);
    return out;
  };
  using enum Verdict;
  EXPECT_THAT(verdicts({}, true), testing::ElementsAre(ok, ok, ok, ok));
  const Limits low{
      .memlock = 64 << 10, .files = 256, .files_hard = 1024, .stack = 1 << 20, .processes = 100};
  EXPECT_THAT(verdicts(low, true), testing::ElementsAre(failed, warning, warning, warning));
  EXPECT_THAT(verdicts(low, false), testing::ElementsAre(ok, warning, warning, warning));
  EXPECT_THAT(judge_limits(low, true)[0].remedy, HasSubstr("LimitMEMLOCK=infinity"));
}

TEST(HostLimits, AreReadFromTheProcess) {
  rlimit files{};
  getrlimit(RLIMIT_NOFILE, &files);
  EXPECT_EQ(read_limits().files, static_cast<int64_t>(files.rlim_cur));
}

TEST(SharedMemory, AMissingOneFailsWhereSeveralGpusAre) {
  EXPECT_EQ(check_shared_memory("/dev/no-such-shm", 8).verdict, Verdict::failed);
  EXPECT_EQ(check_shared_memory("/dev/no-such-shm", 1).verdict, Verdict::warning);
  EXPECT_THAT(check_shared_memory("/tmp", 8).found, HasSubstr(" free"));
}

TEST(FolderCheck, MeasuresAndLeavesNothing) {
  const Folder folder("doctor_speed");
  const std::vector<Finding> findings = check_folder(folder.path.string(), 4 << 20);
  ASSERT_EQ(findings.size(), 2u);
  EXPECT_THAT(findings[0].found, HasSubstr(" free"));
  EXPECT_THAT(findings[1].found, HasSubstr("MB/s (4 MiB written and synchronised)"));
  EXPECT_TRUE(fs::is_empty(folder.path));
}

TEST(FolderCheck, SaysWhatIsWrong) {
  EXPECT_EQ(check_folder("/no/such/folder", 1)[0].found, "there is no such folder");
  const Finding proc = check_folder("/proc", 1)[0];
  EXPECT_EQ(proc.verdict, Verdict::failed);
  EXPECT_THAT(proc.found, StartsWith("cannot be written to: "));
  const Folder folder("doctor_full");
  const auto old_action = std::signal(SIGXFSZ, SIG_IGN);
  rlimit old{};
  getrlimit(RLIMIT_FSIZE, &old);
  const rlimit small{.rlim_cur = 100'000, .rlim_max = old.rlim_max};
  setrlimit(RLIMIT_FSIZE, &small);
  const Finding full = check_folder(folder.path.string(), 1 << 20)[0];
  setrlimit(RLIMIT_FSIZE, &old);
  std::signal(SIGXFSZ, old_action);
  EXPECT_EQ(full.verdict, Verdict::failed);
  EXPECT_EQ(full.found, "writing failed: File too large");
  EXPECT_TRUE(fs::is_empty(folder.path));
}

TEST(NetworkPorts, AreReadAndJudged) {
  const Folder root("doctor_ib");
  const auto port = [&](const std::string& name, const char* state, const char* rate, int downed) {
    root.file(name + "/state", state);
    root.file(name + "/rate", rate);
    root.file(name + "/link_layer", "InfiniBand\n");
    root.file(name + "/counters/link_downed", std::to_string(downed) + "\n");
  };
  port("mlx5_0/ports/1", "4: ACTIVE\n", "400 Gb/sec (4X NDR)\n", 0);
  port("mlx5_1/ports/1", "4: ACTIVE\n", "400 Gb/sec (4X NDR)\n", 0);
  const auto good = judge_ports(read_ports(root.path.string()));
  ASSERT_EQ(good.size(), 1u);
  EXPECT_EQ(good[0].found, "2 x 400 Gb/s");
  EXPECT_EQ(good[0].verdict, Verdict::ok);
  port("mlx5_2/ports/1", "1: DOWN\n", "10 Gb/sec (4X SDR)\n", 0);
  port("mlx5_3/ports/1", "4: ACTIVE\n", "100 Gb/sec (4X EDR)\n", 7);
  const auto bad = judge_ports(read_ports(root.path.string()));
  ASSERT_EQ(bad.size(), 4u);
  EXPECT_EQ(bad[0].found, "1 x 100 Gb/s, 2 x 400 Gb/s");
  EXPECT_EQ(bad[1].found, "not up: mlx5_2/1 (DOWN)");
  EXPECT_EQ(bad[2].found, "ports of different rates; the fastest is 400 Gb/s");
  EXPECT_EQ(bad[3].found, "links went down: mlx5_3/1 7");
  EXPECT_EQ(judge_ports({{.name = "a/1", .state = "DOWN"}})[0].verdict, Verdict::failed);
  EXPECT_EQ(judge_ports(read_ports("/no/such/folder"))[0].verdict, Verdict::skipped);
}

}  // namespace
}  // namespace nereus::doctor
