#include "controller/token_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace flexquant::controller {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

std::string Entry(const std::string& tenant, const std::string& token, const std::string& more = "") {
  return absl::StrCat(R"({"tenant": ")", tenant, R"(", "sha256": ")", transport::ToHex(transport::Sha256(token)), "\"",
                      more, "}");
}

std::string List(const std::vector<std::string>& entries) {
  return absl::StrCat("[", absl::StrJoin(entries, ","), "]");
}

TEST(TokenTableTest, FindsTheTenant) {
  const auto table =
      TokenTable::Parse(absl::StrCat("[", Entry("blue", "b1"), ",",
                                     Entry("red", "r1", R"(, "max_concurrent_requests": 2, "max_queued_requests": 3,
                         "max_tokens_per_request": 4, "requests_per_minute": 5, "tokens_per_minute": 6,
                         "priority_max": -7)"),
                                     "]"),
                        "tokens.json");
  ASSERT_TRUE(table.ok()) << table.status();
  const auto blue = table->Find("b1", absl::Now());
  ASSERT_TRUE(blue.ok()) << blue.status();
  EXPECT_EQ((*blue)->name, "blue");
  EXPECT_EQ((*blue)->quota, TenantQuota());
  const auto red = table->Find("r1", absl::Now());
  ASSERT_TRUE(red.ok()) << red.status();
  EXPECT_EQ((*red)->quota, (TenantQuota{2, 3, 4, 5, 6, -7}));
  const absl::Status unknown = table->Find("b2", absl::Now()).status();
  EXPECT_EQ(unknown.code(), absl::StatusCode::kUnauthenticated);
  EXPECT_THAT(std::string(unknown.message()), Not(HasSubstr("b2")));
  EXPECT_EQ(table->Find("", absl::Now()).status().code(), absl::StatusCode::kUnauthenticated);
}

TEST(TokenTableTest, TokensExpire) {
  const auto table =
      TokenTable::Parse(absl::StrCat("[", Entry("blue", "b1", R"(, "expires": "2030-01-31T12:00:00Z")"), "]"), "path");
  ASSERT_TRUE(table.ok()) << table.status();
  const absl::Time end = absl::FromCivil(absl::CivilSecond(2030, 1, 31, 12, 0, 0), absl::UTCTimeZone());
  EXPECT_TRUE(table->Find("b1", end - absl::Nanoseconds(1)).ok());
  const absl::Status expired = table->Find("b1", end).status();
  EXPECT_EQ(expired.code(), absl::StatusCode::kUnauthenticated);
  EXPECT_THAT(std::string(expired.message()), HasSubstr("2030-01-31"));
}

TEST(TokenTableTest, ATenantMayHaveSeveralTokensWithTheSameLimits) {
  const std::string limit = R"(, "requests_per_minute": 5)";
  const auto table =
      TokenTable::Parse(absl::StrCat("[", Entry("blue", "old", limit), ",", Entry("blue", "new", limit), "]"), "path");
  ASSERT_TRUE(table.ok()) << table.status();
  EXPECT_EQ(*table->Find("old", absl::Now()), *table->Find("new", absl::Now()));
}

TEST(TokenTableTest, AnEmptyListLetsNobodyIn) {
  const auto table = TokenTable::Parse("[]", "path");
  ASSERT_TRUE(table.ok()) << table.status();
  EXPECT_FALSE(table->Find("b1", absl::Now()).ok());
}

TEST(TokenTableTest, BadFilesAreNamed) {
  const std::string good = Entry("blue", "b1");
  const std::string digest = transport::ToHex(transport::Sha256("b1"));
  const struct {
    std::string text;
    std::string problem;
  } cases[] = {
      {"", "not a JSON list"},
      {good, "not a JSON list"},
      {absl::StrCat("[", good), "not a JSON list"},
      {"[1]", "entry 0"},
      {"[{}]", "tenant"},
      {R"([{"tenant": "blue"}])", "sha256"},
      {R"([{"tenant": "blue", "sha256": "12"}])", "64 hexadecimal digits"},
      {List({Entry("", "b1")}), "letters"},
      {List({Entry("a b", "b1")}), "letters"},
      {List({Entry(std::string(65, 'a'), "b1")}), "letters"},
      {List({good, good}), "[1].sha256"},
      {List({good, Entry("blue", "b2", R"(, "requests_per_minute": 5)")}), "other limits"},
      {List({Entry("blue", "b1", R"(, "requests_per_minuet": 5)")}), "requests_per_minuet"},
      {List({Entry("blue", "b1", R"(, "requests_per_minute": 0)")}), "at least 1"},
      {List({Entry("blue", "b1", R"(, "requests_per_minute": -1)")}), "requests_per_minute"},
      {List({Entry("blue", "b1", R"(, "requests_per_minute": "5")")}), "requests_per_minute"},
      {List({Entry("blue", "b1", R"(, "expires": "tomorrow")")}), "2030-01-31T12:00:00Z"},
      {List({Entry("blue", "b1", R"(, "priority_max": 101)")}), "priority_max"},
      {List({Entry("blue", "b1", R"(, "priority_max": 0.5)")}), "priority_max"},
      {List({Entry("blue", "b1", R"(, "expires": 5)")}), "expires"},
  };
  for (const auto& [text, problem] : cases) {
    const absl::Status status = TokenTable::Parse(text, "tokens.json").status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(status.message()), HasSubstr("tokens.json")) << text;
    EXPECT_THAT(std::string(status.message()), HasSubstr(problem)) << text;
  }
}

}  // namespace
}  // namespace flexquant::controller
