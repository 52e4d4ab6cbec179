#include "transport/reloaded_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "spdlog/sinks/ostream_sink.h"
#include "spdlog/spdlog.h"
#include "tests/testing/test_certificates.h"

namespace flexquant::transport {
namespace {

using ::testing::HasSubstr;

absl::StatusOr<int> ParseSum(const std::vector<std::string>& contents) {
  int sum = 0;
  for (const std::string& text : contents) {
    int value = 0;
    if (!absl::SimpleAtoi(text, &value)) {
      return absl::InvalidArgumentError(absl::StrCat("'", text, "' is no number"));
    }
    sum += value;
  }
  return sum;
}

TEST(ReloadedFilesTest, FollowsTheFiles) {
  const testing::TestFolder folder;
  const std::vector<std::string> paths = {folder.Write("a", "1"), folder.Write("b", "2")};
  const auto sum = Reloaded<int>::Open(paths, absl::ZeroDuration(), ParseSum);
  ASSERT_TRUE(sum.ok()) << sum.status();
  const auto first = (*sum)->Current();
  EXPECT_EQ(*first, 3);
  EXPECT_EQ((*sum)->Current(), first);
  folder.Write("b", "5");
  EXPECT_EQ(*(*sum)->Current(), 6);
  EXPECT_EQ(*first, 3);
}

TEST(ReloadedFilesTest, LooksNoMoreOftenThanTheInterval) {
  const testing::TestFolder folder;
  const auto sum = Reloaded<int>::Open({folder.Write("a", "1")}, absl::Hours(1), ParseSum);
  ASSERT_TRUE(sum.ok()) << sum.status();
  folder.Write("a", "2");
  EXPECT_EQ(*(*sum)->Current(), 1);
}

TEST(ReloadedFilesTest, BadFilesKeepTheOldValueAndAreLoggedOnce) {
  const testing::TestFolder folder;
  const auto sum = Reloaded<int>::Open({folder.Write("a", "1")}, absl::ZeroDuration(), ParseSum);
  ASSERT_TRUE(sum.ok()) << sum.status();
  std::ostringstream log;
  const auto logger = spdlog::default_logger();
  spdlog::set_default_logger(
      std::make_shared<spdlog::logger>("test", std::make_shared<spdlog::sinks::ostream_sink_mt>(log)));
  folder.Write("a", "x");
  EXPECT_EQ(*(*sum)->Current(), 1);
  EXPECT_EQ(*(*sum)->Current(), 1);
  std::filesystem::remove(folder.Path("a"));
  EXPECT_EQ(*(*sum)->Current(), 1);
  EXPECT_EQ(*(*sum)->Current(), 1);
  folder.Write("a", "4");
  EXPECT_EQ(*(*sum)->Current(), 4);
  spdlog::set_default_logger(logger);
  std::vector<std::string> lines;
  std::istringstream text(log.str());
  for (std::string line; std::getline(text, line);) {
    lines.push_back(line);
  }
  ASSERT_EQ(lines.size(), 3U) << log.str();
  EXPECT_THAT(lines[0], HasSubstr("'x' is no number"));
  EXPECT_THAT(lines[1], HasSubstr(folder.Path("a")));
  EXPECT_THAT(lines[2], HasSubstr("changed"));
}

TEST(ReloadedFilesTest, FirstReadingNamesTheFile) {
  const testing::TestFolder folder;
  const auto status = [&](const std::string& path) {
    return Reloaded<int>::Open({path}, absl::ZeroDuration(), ParseSum).status();
  };
  EXPECT_EQ(status(folder.Path("absent")).code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status(folder.Path("absent")).message()), HasSubstr(folder.Path("absent")));
  // Must neither wait for a writer nor be read without end.
  ASSERT_EQ(mkfifo(folder.Path("pipe").c_str(), 0600), 0);
  EXPECT_THAT(std::string(status(folder.Path("pipe")).message()), HasSubstr("pipe is not a regular file"));
  EXPECT_EQ(status("/dev/zero").code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status(folder.Write("large", std::string((16U << 20U) + 1, '1'))).code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace flexquant::transport
