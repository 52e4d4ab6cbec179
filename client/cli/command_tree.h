#ifndef FLEXQUANT_CLIENT_CLI_COMMAND_TREE_H_
#define FLEXQUANT_CLIENT_CLI_COMMAND_TREE_H_

#include <string>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"

namespace flexquant::cli {

// An option or, without names, a positional argument.
struct OptionNode {
  std::vector<std::string> names;  // "-h", "--help"
  std::string placeholder;         // "TEXT", or a positional's name; empty = a flag
  std::vector<std::string> choices;
  std::string range;          // "INT in [0 - 1]"; empty = not said
  std::string default_value;  // empty = none
  std::string description;
  std::string group;  // heading; "Options" where there is no other
  bool required = false;
};

// A command as its --help has it, with those below it.
struct CommandNode {
  std::vector<std::string> path;  // "flexquant", "bench", "decode"
  std::string description;
  std::string footer;
  std::vector<OptionNode> options;
  std::vector<OptionNode> positionals;
  std::vector<CommandNode> subcommands;
};

// What the parser that parses the arguments knows, so that nothing made of it can be out of date.
CommandNode DescribeCommands(const CLI::App& app);

// `root` and all below it, each before its subcommands.
std::vector<const CommandNode*> AllCommands(const CommandNode& root);

// A script that makes bash, zsh or fish complete the program's arguments.
std::string BashCompletion(const CommandNode& root);
std::string ZshCompletion(const CommandNode& root);
std::string FishCompletion(const CommandNode& root);

// A page of section 1 in roff.
std::string ManPage(const CommandNode& command);
// All commands as one Markdown document's sections.
std::string MarkdownReference(const CommandNode& root);

}  // namespace flexquant::cli

#endif  // FLEXQUANT_CLIENT_CLI_COMMAND_TREE_H_
