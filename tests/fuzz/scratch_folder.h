#ifndef FLEXQUANT_TESTS_FUZZ_SCRATCH_FOLDER_H_
#define FLEXQUANT_TESTS_FUZZ_SCRATCH_FOLDER_H_

#include <stdlib.h>

#include <filesystem>
#include <string>

#include "common/check.h"
#include "common/mapped_file.h"

namespace flexquant::fuzz {

// A folder of its own, removed at the end. In TMPDIR: a memory file system makes fuzzing quicker.
class ScratchFolder {
 public:
  ScratchFolder() : path_((std::filesystem::temp_directory_path() / "flexquant-fuzz.XXXXXX").string()) {
    FQ_CHECK(mkdtemp(path_.data()) != nullptr);
  }
  ~ScratchFolder() {
    std::error_code error;
    std::filesystem::remove_all(path_, error);
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;

  const std::string& path() const { return path_; }
  std::string Path(const std::string& name) const { return path_ + "/" + name; }
  void Write(const std::string& name, const std::string& contents) const {
    FQ_CHECK(WriteFile(Path(name), contents).ok());
  }

 private:
  std::string path_;
};

}  // namespace flexquant::fuzz

#endif  // FLEXQUANT_TESTS_FUZZ_SCRATCH_FOLDER_H_
