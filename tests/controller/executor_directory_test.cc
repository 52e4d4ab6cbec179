#include "controller/executor_directory.h"

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/synchronization/notification.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace flexquant::controller {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Addresses = std::vector<std::string>;

// What the directory has said, and a resolver whose answers can be changed.
class DirectoryTest : public ::testing::Test {
 protected:
  struct Said {
    Addresses addresses;
    absl::Status lookup;
  };

  void Answer(const absl::StatusOr<Addresses>& answer) {
    const std::lock_guard lock(mutex_);
    answer_ = answer;
  }

  AddressResolver Resolver() {
    return [this](const DnsName& name) {
      const std::lock_guard lock(mutex_);
      asked_.push_back(name.host + " " + name.port);
      return answer_;
    };
  }

  ExecutorDirectory::Listed Listed() {
    return [this](const std::vector<ExecutorTarget>& targets, const absl::Status& lookup) {
      const std::lock_guard lock(mutex_);
      said_ = {{}, lookup};
      for (const ExecutorTarget& target : targets) {
        said_.addresses.push_back(target.address);
      }
      ++times_said_;
      changed_.notify_all();
    };
  }

  // After a lookup that began after this call.
  Said Next() {
    std::unique_lock lock(mutex_);
    const int until = times_said_ + 2;
    changed_.wait(lock, [&] { return times_said_ >= until; });
    return said_;
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  absl::StatusOr<Addresses> answer_ = Addresses{};
  Addresses asked_;
  Said said_;
  int times_said_ = 0;
};

std::vector<ExecutorTarget> Targets(const Addresses& addresses) {
  std::vector<ExecutorTarget> targets;
  for (const std::string& address : addresses) {
    targets.push_back({address, nullptr});
  }
  return targets;
}

TEST_F(DirectoryTest, AListWithoutNamesIsSaidOnceAndAsGiven) {
  const ExecutorDirectory directory(Targets({"b:1", "a:1"}), Resolver(), absl::Milliseconds(1), Listed());
  EXPECT_EQ(times_said_, 1);
  EXPECT_THAT(said_.addresses, ElementsAre("b:1", "a:1"));
  EXPECT_TRUE(said_.lookup.ok());
  EXPECT_THAT(asked_, IsEmpty());
}

TEST_F(DirectoryTest, ANameStandsForItsAddresses) {
  Answer(Addresses{"10.0.0.1:7", "10.0.0.2:7"});
  const ExecutorDirectory directory(Targets({"dns:many:7", "a:1", "10.0.0.2:7"}), Resolver(), absl::Milliseconds(1),
                                    Listed());
  EXPECT_THAT(Next().addresses, ElementsAre("10.0.0.1:7", "10.0.0.2:7", "a:1"));
  Answer(Addresses{"10.0.0.3:7"});
  EXPECT_THAT(Next().addresses, ElementsAre("10.0.0.2:7", "10.0.0.3:7", "a:1"));
  EXPECT_EQ(asked_.front(), "many 7");
}

TEST_F(DirectoryTest, ALookupThatFailsTakesNothingAway) {
  Answer(Addresses{"10.0.0.1:7"});
  const ExecutorDirectory directory(Targets({"dns:many:7"}), Resolver(), absl::Milliseconds(1), Listed());
  EXPECT_TRUE(Next().lookup.ok());
  Answer(absl::UnavailableError("no name server"));
  const Said failed = Next();
  EXPECT_THAT(failed.addresses, ElementsAre("10.0.0.1:7"));
  EXPECT_EQ(failed.lookup.message(), "no name server");
  Answer(absl::NotFoundError("gone"));
  EXPECT_THAT(Next().addresses, IsEmpty());
}

TEST_F(DirectoryTest, StopDoesNotWaitForALookup) {
  // The thread outlives the directory and this test.
  const auto asked = std::make_shared<absl::Notification>();
  const auto answer = std::make_shared<absl::Notification>();
  std::atomic<bool> said = false;
  {
    const ExecutorDirectory directory(
        Targets({"dns:slow:7"}),
        [asked, answer](const DnsName& /*name*/) {
          asked->Notify();
          answer->WaitForNotification();
          return Addresses{};
        },
        absl::Milliseconds(1), [&](const auto& /*targets*/, const auto& /*lookup*/) { said = true; });
    asked->WaitForNotification();
  }
  answer->Notify();
  EXPECT_FALSE(said);
}

TEST(DnsAddressTest, NamesAreParsed) {
  EXPECT_TRUE(IsDnsAddress("dns:a:1"));
  EXPECT_FALSE(IsDnsAddress("a:1"));
  const auto name = ParseDnsAddress("dns:executors.example:50061");
  ASSERT_TRUE(name.ok());
  EXPECT_EQ(name->host, "executors.example");
  EXPECT_EQ(name->port, "50061");
  for (const char* bad : {"a:1", "dns:", "dns:a", "dns::1", "dns:a:", "dns:a:x", "dns:a:0", "dns:a:65536", "dns:a:b:1",
                          "dns:///a:1", "dns:[::1]:1"}) {
    EXPECT_THAT(std::string(ParseDnsAddress(bad).status().message()), HasSubstr("is no dns:NAME:PORT")) << bad;
  }
}

TEST(DnsAddressTest, TheSystemResolves) {
  const auto addresses = ResolveDnsName({"localhost", "7"});
  ASSERT_TRUE(addresses.ok()) << addresses.status();
  EXPECT_THAT(*addresses, Contains("127.0.0.1:7"));
  const auto none = ResolveDnsName({"no-such-name.invalid", "7"});
  EXPECT_FALSE(none.ok());
  EXPECT_THAT(std::string(none.status().message()), HasSubstr("no-such-name.invalid"));
}

}  // namespace
}  // namespace flexquant::controller
