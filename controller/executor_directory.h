#ifndef FLEXQUANT_CONTROLLER_EXECUTOR_DIRECTORY_H_
#define FLEXQUANT_CONTROLLER_EXECUTOR_DIRECTORY_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "controller/server.h"

namespace flexquant::controller {

// Whether an executor's address is "dns:NAME:PORT".
bool IsDnsAddress(absl::string_view address);

// INVALID_ARGUMENT if `address` is no "dns:NAME:PORT".
absl::StatusOr<DnsName> ParseDnsAddress(absl::string_view address);

// Every address that the system's resolver knows for `name`, as HOST:PORT, sorted. May block for the resolver's timeout
// (/etc/resolv.conf). NOT_FOUND if there is none; UNAVAILABLE if that cannot be said.
absl::StatusOr<std::vector<std::string>> ResolveDnsName(const DnsName& name);

// Keeps the list of executors up to date while names in it may get and lose addresses. Thread-safe.
class ExecutorDirectory {
 public:
  // All executors now; not OK if a name has none, which its last addresses then stand in for. One call at a time.
  using Listed = std::function<void(const std::vector<ExecutorTarget>& targets, const absl::Status& lookup)>;

  // Looks names up at once and then every `interval`, in a thread of its own, which calls `listed` after each lookup.
  // `targets` are fixed addresses and well-formed names; with no name, `listed` is called once, here.
  ExecutorDirectory(std::vector<ExecutorTarget> targets, AddressResolver resolve, absl::Duration interval,
                    Listed listed);
  ~ExecutorDirectory();
  // `listed` is not called after this; waits for a call that runs, not for a lookup. Idempotent.
  void Stop();

 private:
  struct State;
  const std::shared_ptr<State> state_;
};

}  // namespace flexquant::controller

#endif  // FLEXQUANT_CONTROLLER_EXECUTOR_DIRECTORY_H_
