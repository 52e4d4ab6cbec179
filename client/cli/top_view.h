#ifndef FLEXQUANT_CLIENT_CLI_TOP_VIEW_H_
#define FLEXQUANT_CLIENT_CLI_TOP_VIEW_H_

#include <termios.h>

#include <string>
#include <utility>
#include <vector>

#include "flexquant/v1/model.pb.h"

namespace flexquant::cli {

// What a server does now, as lines of at most `width` characters: the server, its load, and a line an executor with a
// bar of its KV cache's use. `color`: bars coloured by how full they are.
std::vector<std::string> TopLines(const std::string& server, const v1::ServerInfo& info, int width, bool color);

// Takes standard output, a terminal, for pictures that replace each other; gives it back when destroyed, with what was
// there before. Keys are not shown and can be read one by one. One a process.
class Screen {
 public:
  Screen();
  ~Screen();
  Screen(const Screen&) = delete;
  Screen& operator=(const Screen&) = delete;

  void Draw(const std::vector<std::string>& lines) const;

 private:
  bool keys_changed_ = false;
  termios keys_before_ = {};
};

// Columns and rows of the terminal on standard output; 80 and 24 where it is none.
std::pair<int, int> ScreenSize();

}  // namespace flexquant::cli

#endif  // FLEXQUANT_CLIENT_CLI_TOP_VIEW_H_
