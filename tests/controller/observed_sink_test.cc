#include "controller/observed_sink.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

namespace flexquant::controller {
namespace {

TEST(TraceIdTest, IsTakenFromAValidTraceparentOnly) {
  const std::string id = "4bf92f3577b34da6a3ce929d0e0e4736";
  EXPECT_EQ(TraceIdOf("00-" + id + "-00f067aa0ba902b7-01"), id);
  EXPECT_EQ(TraceIdOf("cc-" + id + "-00f067aa0ba902b7-01-later"), id);
  const std::vector<std::string> bad_ones = {"",
                                             "hello",
                                             absl::StrCat("ff-", id, "-00f067aa0ba902b7-01"),
                                             absl::StrCat("00-", id, "-00f067aa0ba902b7"),
                                             absl::StrCat("00-", id.substr(1), "-00f067aa0ba902b7-01"),
                                             "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
                                             absl::StrCat("00-", std::string(32, '0'), "-00f067aa0ba902b7-01"),
                                             absl::StrCat("00-", id, "-xyz-01")};
  for (const std::string& bad : bad_ones) {
    EXPECT_EQ(TraceIdOf(bad), "") << bad;
  }
}

}  // namespace
}  // namespace flexquant::controller
