#include "controller/executor_directory.h"

#include <netdb.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/status_macros.h"

namespace flexquant::controller {
namespace {

constexpr absl::string_view kDnsPrefix = "dns:";

absl::Status LookupError(const DnsName& name, int code) {
  if (code == EAI_NONAME || code == EAI_NODATA) {
    return absl::NotFoundError(absl::StrCat("the name '", name.host, "' has no address: no executor is up, or ",
                                            "--executor dns:", name.host, ":", name.port, " names nothing"));
  }
  return absl::UnavailableError(absl::StrCat("cannot look up '", name.host,
                                             "': ", code == EAI_SYSTEM ? std::strerror(errno) : gai_strerror(code)));
}

// "1.2.3.4:PORT" or "[::1]:PORT"; empty if it has no numeric form.
std::string NumericAddress(const addrinfo& info, const std::string& port) {
  char host[NI_MAXHOST];
  if (getnameinfo(info.ai_addr, info.ai_addrlen, host, sizeof(host), nullptr, 0, NI_NUMERICHOST) != 0) {
    return {};
  }
  return info.ai_family == AF_INET6 ? absl::StrCat("[", host, "]:", port) : absl::StrCat(host, ":", port);
}

}  // namespace

bool IsDnsAddress(absl::string_view address) { return absl::StartsWith(address, kDnsPrefix); }

absl::StatusOr<DnsName> ParseDnsAddress(absl::string_view address) {
  absl::string_view rest = absl::StripPrefix(address, kDnsPrefix);
  const size_t colon = rest.rfind(':');
  int port = 0;
  if (!IsDnsAddress(address) || colon == absl::string_view::npos || colon == 0 ||
      rest.substr(0, colon).find_first_of(":/") != absl::string_view::npos ||
      !absl::SimpleAtoi(rest.substr(colon + 1), &port) || port < 1 || port > 65535) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", address, "' is no dns:NAME:PORT, such as dns:executors.example:50061"));
  }
  return DnsName{std::string(rest.substr(0, colon)), absl::StrCat(port)};
}

absl::StatusOr<std::vector<std::string>> ResolveDnsName(const DnsName& name) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (const int code = getaddrinfo(name.host.c_str(), nullptr, &hints, &found); code != 0) {
    return LookupError(name, code);
  }
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> list(found, &freeaddrinfo);
  std::vector<std::string> addresses;
  for (const addrinfo* info = found; info != nullptr; info = info->ai_next) {
    if (std::string address = NumericAddress(*info, name.port); !address.empty()) {
      addresses.push_back(std::move(address));
    }
  }
  std::sort(addresses.begin(), addresses.end());
  addresses.erase(std::unique(addresses.begin(), addresses.end()), addresses.end());
  return addresses;
}

// Shared with the thread, which outlives the directory if a lookup hangs: the resolver cannot be interrupted, and a
// shutdown must not wait for a dead name server.
struct ExecutorDirectory::State {
  std::vector<ExecutorTarget> targets;
  AddressResolver resolve;
  absl::Duration interval;
  Listed listed;

  std::mutex mutex;
  std::condition_variable changed;
  bool stopped = false;

  std::map<std::string, std::vector<std::string>> known;  // of the thread

  // Targets with the names replaced by their addresses.
  std::vector<ExecutorTarget> Expand(absl::Status* lookup) {
    std::map<std::string, ExecutorTarget> by_address;  // one that is listed twice is one executor
    for (const ExecutorTarget& target : targets) {
      if (!IsDnsAddress(target.address)) {
        by_address.emplace(target.address, target);
        continue;
      }
      auto addresses = resolve(*ParseDnsAddress(target.address));
      if (addresses.ok()) {
        known[target.address] = *std::move(addresses);
      } else {
        lookup->Update(addresses.status());
        // That nobody can say where they are does not take executors away; that the name has none does.
        if (absl::IsNotFound(addresses.status())) {
          known[target.address].clear();
        }
      }
      for (const std::string& address : known[target.address]) {
        ExecutorTarget executor = target;
        executor.address = address;
        by_address.emplace(address, std::move(executor));
      }
    }
    std::vector<ExecutorTarget> all;
    for (auto& [address, target] : by_address) {
      all.push_back(std::move(target));
    }
    return all;
  }

  void Run() {
    while (true) {
      absl::Status lookup;
      const std::vector<ExecutorTarget> all = Expand(&lookup);
      std::unique_lock lock(mutex);
      if (stopped) {
        return;
      }
      listed(all, lookup);
      if (changed.wait_for(lock, absl::ToChronoNanoseconds(interval), [this] { return stopped; })) {
        return;
      }
    }
  }
};

ExecutorDirectory::ExecutorDirectory(std::vector<ExecutorTarget> targets, AddressResolver resolve,
                                     absl::Duration interval, Listed listed)
    : state_(std::make_shared<State>()) {
  state_->targets = std::move(targets);
  state_->resolve = resolve ? std::move(resolve) : ResolveDnsName;
  state_->interval = interval;
  state_->listed = std::move(listed);
  if (std::none_of(state_->targets.begin(), state_->targets.end(),
                   [](const ExecutorTarget& target) { return IsDnsAddress(target.address); })) {
    state_->listed(state_->targets, absl::OkStatus());
    return;
  }
  std::thread([state = state_] { state->Run(); }).detach();
}

ExecutorDirectory::~ExecutorDirectory() { Stop(); }

void ExecutorDirectory::Stop() {
  const std::lock_guard lock(state_->mutex);
  state_->stopped = true;
  state_->changed.notify_all();
}

}  // namespace flexquant::controller
