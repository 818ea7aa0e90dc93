#include "train/mounts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "config/load.h"
#include "test/silent_mount.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::ThrowsMessage;

TEST(Mounts, AFolderWhoseServerIsGoneIsNamedWithItsKeyAndMount) {
  const test::TemporaryFolder f;
  const test::SilentMount mount(f.file("gone"));
  if (!mount.is_mounted()) GTEST_SKIP() << "no FUSE file system can be mounted here";
  const auto check = [&](const std::vector<std::string>& arguments) {
    TrainFlags flags;
    check_mounts(load_config(arguments, flags).config, std::chrono::milliseconds(150));
  };
  const std::string here = "--job.dump_folder=" + f.file("run"), gone = f.file("gone/run");
  check({here});
  for (const char* key : {"job.dump_folder", "checkpoint.initial_load_path",
                          "training.dataset_path", "model.hf_assets_path"})
    EXPECT_THAT(
        [&] {
          check({here, fmt::format("--{}={}", key, gone)});
        },
        ThrowsMessage<Error>(
            AllOf(HasSubstr(fmt::format("{} = {}: its file system does not answer: nothing "
                                        "came back within 0.15 s on ",
                                        key, gone)),
                  HasSubstr(", mount " + f.file("gone") + " (fuse). Is its server up?"))))
        << key;
}

}  // namespace
}  // namespace nereus
