#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "client/cli/command_tree.h"
#include "client/cli/commands.h"
#include "common/mapped_file.h"
#include "common/status_macros.h"

namespace flexquant::cli {
namespace {

// Text as roff takes it: nothing of it is an instruction, and dashes are those that a terminal has.
std::string Roff(const std::string& text) {
  std::string escaped = absl::StrReplaceAll(text, {{"\\", "\\e"}, {"-", "\\-"}, {"'", "\\(aq"}});
  escaped = absl::StrReplaceAll(escaped, {{"\n.", "\n\\&."}});
  return !escaped.empty() && escaped[0] == '.' ? "\\&" + escaped : escaped;
}

// "--threads INT".
std::string Signature(const OptionNode& option) {
  std::string text = absl::StrJoin(option.names, ", ");
  if (!option.placeholder.empty()) {
    absl::StrAppend(&text, text.empty() ? "" : " ", option.placeholder);
  }
  return text;
}

// What --help says of an option's values, in words.
std::string Values(const OptionNode& option) {
  std::vector<std::string> parts;
  if (option.required) {
    parts.emplace_back("required");
  }
  if (!option.choices.empty()) {
    parts.push_back("one of " + absl::StrJoin(option.choices, ", "));
  }
  if (!option.range.empty()) {
    parts.push_back(option.range);
  }
  if (!option.default_value.empty()) {
    parts.push_back("default " + option.default_value);
  }
  return parts.empty() ? "" : absl::StrCat(" (", absl::StrJoin(parts, "; "), ")");
}

std::string Synopsis(const CommandNode& command) {
  std::string text = absl::StrJoin(command.path, " ");
  if (!command.options.empty()) {
    text += " [OPTIONS]";
  }
  for (const OptionNode& positional : command.positionals) {
    absl::StrAppend(&text, " ", absl::AsciiStrToUpper(positional.placeholder));
  }
  if (!command.subcommands.empty()) {
    text += command.path.size() == 1 ? " COMMAND" : " [COMMAND]";
  }
  return text;
}

// Headings in the order in which they come.
std::vector<std::string> Groups(const CommandNode& command) {
  std::vector<std::string> groups;
  for (const OptionNode& option : command.options) {
    if (std::find(groups.begin(), groups.end(), option.group) == groups.end()) {
      groups.push_back(option.group);
    }
  }
  return groups;
}

std::string PageName(const CommandNode& command) { return absl::StrJoin(command.path, "-"); }

absl::Status WritePages(const CommandNode& root, const std::string& folder) {
  std::error_code error;
  if (std::filesystem::create_directories(folder, error); error) {
    return absl::InvalidArgumentError(absl::StrCat("cannot make the folder ", folder, ": ", error.message()));
  }
  for (const CommandNode* command : AllCommands(root)) {
    FQ_RETURN_IF_ERROR(WriteFile(absl::StrCat(folder, "/", PageName(*command), ".1"), ManPage(*command)));
  }
  return absl::OkStatus();
}

}  // namespace

std::string ManPage(const CommandNode& command) {
  std::string page = absl::StrCat(".TH ", absl::AsciiStrToUpper(PageName(command)), " 1 \"\" \"flexquant ",
                                  FLEXQUANT_VERSION, "\" \"FlexQuant\"\n.SH NAME\n", Roff(PageName(command)), " \\- ",
                                  Roff(command.description), "\n.SH SYNOPSIS\n.B ", Roff(Synopsis(command)), "\n");
  const auto entry = [&page](const std::string& what, const std::string& text) {
    absl::StrAppend(&page, ".TP\n.B ", Roff(what), "\n", Roff(text), "\n");
  };
  if (!command.positionals.empty()) {
    page += ".SH ARGUMENTS\n";
    for (const OptionNode& positional : command.positionals) {
      entry(absl::AsciiStrToUpper(positional.placeholder), positional.description + Values(positional));
    }
  }
  if (!command.subcommands.empty()) {
    page += ".SH COMMANDS\n";
    for (const CommandNode& below : command.subcommands) {
      entry(below.path.back(), absl::StrCat(below.description, "; ", PageName(below), "(1)"));
    }
  }
  if (!command.options.empty()) {
    page += ".SH OPTIONS\n";
    const std::vector<std::string> groups = Groups(command);
    for (const std::string& group : groups) {
      if (groups.size() > 1) {
        absl::StrAppend(&page, ".SS \"", Roff(group), "\"\n");
      }
      for (const OptionNode& option : command.options) {
        if (option.group == group) {
          entry(Signature(option), option.description + Values(option));
        }
      }
    }
  }
  if (!command.footer.empty()) {
    absl::StrAppend(&page, ".SH NOTES\n.nf\n", Roff(std::string(absl::StripAsciiWhitespace(command.footer))),
                    "\n.fi\n");
  }
  return page;
}

std::string MarkdownReference(const CommandNode& root) {
  // A table's cell: a bar would end it, and angle brackets are tags.
  const auto cell = [](const std::string& text) {
    return absl::StrReplaceAll(text, {{"|", "\\|"}, {"<", "&lt;"}, {"\n", " "}});
  };
  std::string text;
  for (const CommandNode* command : AllCommands(root)) {
    absl::StrAppend(&text, text.empty() ? "" : "\n", command->path.size() > 2 ? "### " : "## ",
                    absl::StrJoin(command->path, " "), "\n", command->description, "\n```\n", Synopsis(*command),
                    "\n```\n");
    if (!command->subcommands.empty()) {
      text += "| command | what |\n|---|---|\n";
      for (const CommandNode& below : command->subcommands) {
        absl::StrAppend(&text, "| [`", below.path.back(), "`](#", PageName(below), ") | ", cell(below.description),
                        " |\n");
      }
      text += "\n";
    }
    if (!command->positionals.empty() || !command->options.empty()) {
      text += "| argument | what |\n|---|---|\n";
    }
    for (const OptionNode& positional : command->positionals) {
      absl::StrAppend(&text, "| `", absl::AsciiStrToUpper(positional.placeholder), "` | ",
                      cell(positional.description + Values(positional)), " |\n");
    }
    for (const std::string& group : Groups(*command)) {
      for (const OptionNode& option : command->options) {
        if (option.group == group) {
          absl::StrAppend(&text, "| `", Signature(option), "` | ", cell(option.description + Values(option)), " |\n");
        }
      }
    }
    if (!command->footer.empty()) {
      absl::StrAppend(&text, "\n", absl::StripAsciiWhitespace(command->footer), "\n");
    }
  }
  return text;
}

void AddMan(CLI::App& app, RunCommand& run) {
  struct Flags {
    std::string folder;
    bool markdown = false;
  };
  auto flags = std::make_shared<Flags>();
  auto* command = app.add_subcommand("man", "Write the manual pages: flexquant.1 and one a command");
  auto* folder = command->add_option("folder", flags->folder, "Folder to write them to, such as man1");
  command->add_flag("--markdown", flags->markdown, "Print all of them as Markdown in place of that")->excludes(folder);
  command->callback([flags, &app, &run] {
    RequireUsage(flags->markdown || !flags->folder.empty()
                     ? absl::OkStatus()
                     : absl::InvalidArgumentError("name a FOLDER to write the pages to, or --markdown"));
    run = [flags, &app] {
      const CommandNode root = DescribeCommands(app);
      if (flags->markdown) {
        std::fputs(MarkdownReference(root).c_str(), stdout);
        return absl::OkStatus();
      }
      return WritePages(root, flags->folder);
    };
  });
}

}  // namespace flexquant::cli
