#ifndef FLEXQUANT_TRANSPORT_RELOADED_FILES_H_
#define FLEXQUANT_TRANSPORT_RELOADED_FILES_H_

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace flexquant::transport {

// How old what was read from a file may become before it is looked at again.
inline constexpr absl::Duration kReloadInterval = absl::Seconds(5);

// What is read from small files that may be replaced while the process runs. There is no thread: whoever asks for the
// value looks at the files when the last look is old enough. Thread-safe.
class ReloadedFiles {
 public:
  // What the contents, in the order of the paths, mean.
  using Parse = std::function<absl::StatusOr<std::shared_ptr<const void>>(const std::vector<std::string>& contents)>;

  ReloadedFiles(std::vector<std::string> paths, absl::Duration interval, Parse parse)
      : paths_(std::move(paths)), interval_(interval), parse_(std::move(parse)) {}

  // The first reading. Errors name the file.
  absl::Status Load();
  // The newest value that could be read. Files that cannot be, or do not parse, leave the old value and are logged
  // once.
  std::shared_ptr<const void> Current();

 private:
  absl::StatusOr<std::vector<std::string>> ReadAll() const;
  void Look();  // with mutex_ held

  const std::vector<std::string> paths_;
  const absl::Duration interval_;
  const Parse parse_;
  std::mutex mutex_;
  absl::Time looked_ = absl::InfinitePast();
  std::vector<std::string> contents_;  // that value_ was made of
  std::shared_ptr<const void> value_;
  std::string complaint_;  // logged last; empty = none since the last good reading
};

// The same with its type.
template <typename T>
class Reloaded {
 public:
  using Parse = std::function<absl::StatusOr<T>(const std::vector<std::string>& contents)>;

  static absl::StatusOr<std::shared_ptr<Reloaded>> Open(std::vector<std::string> paths, absl::Duration interval,
                                                        Parse parse) {
    std::shared_ptr<Reloaded> result(new Reloaded(std::move(paths), interval, std::move(parse)));
    if (absl::Status status = result->files_.Load(); !status.ok()) {
      return status;
    }
    return result;
  }

  // The same object until the files change. Never null.
  std::shared_ptr<const T> Current() { return std::static_pointer_cast<const T>(files_.Current()); }

 private:
  Reloaded(std::vector<std::string> paths, absl::Duration interval, Parse parse)
      : files_(std::move(paths), interval,
               [parse = std::move(parse)](
                   const std::vector<std::string>& contents) -> absl::StatusOr<std::shared_ptr<const void>> {
                 absl::StatusOr<T> value = parse(contents);
                 if (!value.ok()) {
                   return value.status();
                 }
                 return std::make_shared<const T>(*std::move(value));
               }) {}

  ReloadedFiles files_;
};

}  // namespace flexquant::transport

#endif  // FLEXQUANT_TRANSPORT_RELOADED_FILES_H_
