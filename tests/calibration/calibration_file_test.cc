// What is written into a package: whole or not at all, and read back without loss.

#include "common/calibration/calibration_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "common/mapped_file.h"
#include "tests/calibration/made_up.h"

namespace flexquant {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class CalibrationFileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "/flexquant_calibration_" + std::to_string(getpid()) + "_" +
              testing::UnitTest::GetInstance()->current_test_info()->name();
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::string Path(const std::string& name) const { return folder_ + "/" + name; }
  void Write(const std::string& name, const std::string& text) const { std::ofstream(Path(name)) << text; }
  size_t NumFiles() const {
    return static_cast<size_t>(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()));
  }

  static CalibrationProgress SomeProgress() {
    CalibrationProgress progress;
    progress.key = "a key";
    progress.units_done = 17;
    progress.bucket_positions = {1, 2, 3, 4, 5};
    progress.sums.resize(5);
    progress.sums[3][2][1] = 1.0 / 3;
    progress.rungs.resize(2);
    progress.rungs[1] = {{0.1, 1e-300, 12345.678}, 2, 9.87};
    progress.holdout_signals = {{{0.1, 1.0 / 3, 2}}, {{3.25, 0.5, 1e-3}, {0, 1, 17}}};
    progress.kv_cache_8 = {1.0 / 7, 3};
    progress.coarse_prompts = {1e-5, 2};
    return progress;
  }

  std::string folder_;
};

TEST_F(CalibrationFileTest, FilesAreReplacedWhole) {
  Write("file", "old");
  ASSERT_TRUE(WriteFileAtomically(Path("file"), "new").ok());
  EXPECT_EQ(*ReadFile(Path("file")), "new");
  EXPECT_EQ(NumFiles(), 1U);
  const absl::Status status = WriteFileAtomically(Path("absent/file"), "new");
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("absent/file"));
  fs::create_directory(Path("folder"));
  EXPECT_FALSE(WriteFileAtomically(Path("folder"), "new").ok());
  EXPECT_EQ(NumFiles(), 2U);
}

TEST_F(CalibrationFileTest, OtherFieldsOfThePackageStay) {
  Write("flexquant.json", R"({"format_version": 1, "calibration": null, "relative_error": {"3": 0.1}})");
  ASSERT_TRUE(SaveCalibration(folder_, MadeUpCalibration()).ok());
  const std::string text = *ReadFile(Path("flexquant.json"));
  const auto json = nlohmann::json::parse(text);
  EXPECT_EQ(json["format_version"], 1);
  EXPECT_EQ(json["relative_error"]["3"], 0.1);
  const auto read = CalibrationOfManifest(text, "p", MadeUpCalibration().model_revision, 5);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ((*read)->ToJson(), MadeUpCalibration().ToJson());
}

TEST_F(CalibrationFileTest, NothingIsSavedIntoWhatIsNoPackage) {
  EXPECT_FALSE(SaveCalibration(folder_, MadeUpCalibration()).ok());
  Write("flexquant.json", "[1, 2");
  EXPECT_FALSE(SaveCalibration(folder_, MadeUpCalibration()).ok());
  EXPECT_EQ(*ReadFile(Path("flexquant.json")), "[1, 2");
}

TEST_F(CalibrationFileTest, ProgressGoesOnWithTheSameNumbers) {
  EXPECT_FALSE(LoadProgress(folder_).has_value());
  ASSERT_TRUE(SaveProgress(folder_, SomeProgress()).ok());
  EXPECT_EQ(LoadProgress(folder_), SomeProgress());
  RemoveProgress(folder_);
  EXPECT_EQ(NumFiles(), 0U);
}

TEST_F(CalibrationFileTest, DamagedProgressIsNone) {
  const auto whole = nlohmann::ordered_json::parse(SomeProgress().ToJson());
  for (const auto& [field, value] : whole.items()) {
    auto damaged = whole;
    damaged[field] = "x";
    if (field == "key") {
      damaged.erase(field);
    }
    Write(fs::path(ProgressPath(folder_)).filename(), damaged.dump());
    EXPECT_FALSE(LoadProgress(folder_).has_value()) << field;
    EXPECT_THAT(std::string(CalibrationProgress::FromJson(damaged.dump(), "p").status().message()), HasSubstr(field));
  }
  auto few = whole;
  few["rungs"][1]["positions"] = 4;
  EXPECT_FALSE(CalibrationProgress::FromJson(few.dump(), "p").ok());
  few = whole;
  few["holdout_signals"][1]["margin"].erase(0);
  EXPECT_FALSE(CalibrationProgress::FromJson(few.dump(), "p").ok());
  few = whole;
  few["groups"][0]["kl"].erase(0);
  EXPECT_FALSE(CalibrationProgress::FromJson(few.dump(), "p").ok());
  EXPECT_FALSE(CalibrationProgress::FromJson("", "p").ok());
}

}  // namespace
}  // namespace flexquant
