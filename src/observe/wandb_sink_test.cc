#include "observe/wandb_sink.h"

#include <gmock/gmock.h>

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "test/viewers.h"

namespace nereus {
namespace {

using nlohmann::json;
using testing::HasSubstr;

WandbRun example(const std::string& folder, double time = 1764500000) {
  return {.folder = folder,
          .id = "0123456789abcdef",
          .project = "p",
          .team = "t",
          .name = "n",
          .host = "h",
          .config = R"({"training":{"steps":3,"seed":null},"job":{"description":"a \"b\""}})",
          .time = time};
}

std::string file_of(const WandbSink& sink) { return sink.folder() + "/run-0123456789abcdef.wandb"; }

std::vector<std::string> records_of(const std::string& path) {
  std::vector<std::string> out;
  visit_wandb_records(path, [&](const std::string& record) { out.push_back(record); });
  return out;
}

TEST(WandbFile, CutsRecordsAtBlocksAndReadsThemBack) {
  const test::TemporaryFolder folder;
  std::vector<std::string> records;
  // Sizes around what a block has room for, so that 0 to 7 bytes are left at its end.
  for (size_t size = 32768 - 7 - 7 - 8; size < 32768; ++size)
    records.push_back(std::string(size, static_cast<char>('a' + size % 26)));
  records.push_back(std::string(100000, 'x'));
  records.push_back("");
  const std::string path = folder.file("run.wandb");
  {
    WandbFile file(path);
    for (const std::string& r : records) {
      file.add(r);
      file.flush();
    }
  }
  EXPECT_EQ(records_of(path), records);
  const std::string all = test::read_file(path);
  folder.write("torn", all.substr(0, all.size() - 100));
  records.resize(records.size() - 2);
  EXPECT_EQ(records_of(folder.file("torn")), records) << "up to the torn one";
}

TEST(WandbSink, IsWhatThePackageReads) {
  NEREUS_VIEWER(python, "python");
  const test::TemporaryFolder folder;
  std::string path;
  {
    WandbSink sink(example(folder.path()));
    path = file_of(sink);
    sink.log_line({.time = 1764500001.5, .text = "a line \xff"});
    sink.step({.step = 10, .time = 1764500002, .loss = 2.5, .lr = 1e-5});
    sink.experts(10, 1764500002, {.experts = 2, .layers = {3}, .counts = {30, 10}});
    sink.validation({.step = 10, .time = 1764500003, .loss = 6.5});
    sink.event({.kind = EventKind::end, .facts = {{"exit_code", int64_t{0}}}, .time = 1764500004});
    sink.log_line({.text = "behind the end"});
  }
  EXPECT_THAT(path, HasSubstr("/offline-run-2025"));
  const json records = json::parse(test::output_of(
      python + " " + test::source_path("tests/viewers/wandb_read.py") + " " + path));
  std::vector<json> rows;
  json run, exit, output;
  for (const json& r : records) {
    if (r.contains("run")) run = r["run"];
    if (r.contains("exit")) exit = r["exit"];
    if (r.contains("output_raw")) output = r["output_raw"];
    if (!r.contains("history")) continue;
    json row = json::object();
    for (const json& item : r["history"]["item"]) {
      std::string key;
      for (const json& part : item["nested_key"])
        key += (key.empty() ? "" : ".") + part.get<std::string>();
      row[key] = json::parse(item["value_json"].get<std::string>());
    }
    rows.push_back(row);
  }
  EXPECT_EQ(run["run_id"], "0123456789abcdef");
  EXPECT_EQ(run["project"], "p");
  EXPECT_EQ(run["entity"], "t");
  EXPECT_EQ(run["display_name"], "n");
  EXPECT_EQ(run["config"]["update"][0]["key"], "training");
  EXPECT_EQ(run["config"]["update"][0]["value_json"], R"({"steps":3,"seed":null})");
  EXPECT_EQ(output["line"], "a line \xEF\xBF\xBD\n");
  ASSERT_EQ(rows.size(), 3u);
  EXPECT_EQ(rows[0]["loss_metrics/global_avg_loss"], 2.5);
  EXPECT_EQ(rows[0]["lr"], 1e-5);
  EXPECT_EQ(rows[0]["step"], 10);
  EXPECT_EQ(rows[0]["_step"], 0);
  EXPECT_EQ(rows[0]["_runtime"], 2);
  EXPECT_EQ(rows[1]["expert_load/layer_3(ratio)._type"], "histogram");
  EXPECT_EQ(rows[1]["expert_load/layer_3(ratio).bins"].size(), 31u);
  EXPECT_EQ(rows[2]["validation_metrics/loss"], 6.5);
  EXPECT_EQ(rows[2]["_step"], 2);
  EXPECT_EQ(exit["runtime"], 4);
}

TEST(WandbSink, ALaterStartCountsRowsOnInAFolderOfItsOwn) {
  const test::TemporaryFolder folder;
  std::string first, second;
  {
    WandbSink sink(example(folder.path()));
    first = sink.folder();
    for (int64_t step = 1; step <= 3; ++step) sink.step({.step = step});
  }
  {
    WandbSink sink(example(folder.path()));  // in the same second
    second = sink.folder();
    sink.step({.step = 2});
  }
  EXPECT_NE(first, second);
  const std::string row =
      "_step\x82\x01\x01"
      "3";  // nested_key 2, value_json 16: "3"
  EXPECT_THAT(records_of(second + "/run-0123456789abcdef.wandb").back(), HasSubstr(row));
}

TEST(WandbSettings, AreThoseOfTheEnvironmentAndKeepNoKey) {
  std::map<std::string, std::string> variables;
  const auto settings = [&] {
    return wandb_settings([&](const char* name) { return variables[name]; });
  };
  EXPECT_EQ(settings().project, "torchtitan");
  EXPECT_TRUE(settings().online);
  EXPECT_FALSE(settings().has_key);
  variables = {{"WANDB_API_KEY", "s3cret"}, {"WANDB_MODE", "offline"}, {"WANDB_PROJECT", "p"}};
  EXPECT_TRUE(settings().has_key);
  EXPECT_FALSE(settings().online);
  EXPECT_EQ(settings().project, "p");
  variables = {{"WANDB_MODE", "disabled"}};
  EXPECT_TRUE(settings().disabled);
  variables = {{"WANDB_MODE", "on"}};
  EXPECT_THAT(settings, testing::ThrowsMessage<Error>(HasSubstr(
                            "WANDB_MODE = on: W&B's modes are online, offline and disabled")));
  const test::TemporaryFolder home;
  home.write(".netrc", "machine api.wandb.ai\n  login user\n  password s3cret\n");
  variables = {{"HOME", home.path()}};
  EXPECT_TRUE(settings().has_key);
  variables["WANDB_BASE_URL"] = "https://wandb.example.com:8080/";
  EXPECT_FALSE(settings().has_key) << "a key for another host";
}

}  // namespace
}  // namespace nereus
