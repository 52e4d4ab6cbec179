#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "client/cli/command_tree.h"
#include "client/cli/commands.h"

namespace flexquant::cli {
namespace {

std::string Path(const CommandNode& command) { return absl::StrJoin(command.path, " "); }

// In single quotes, for sh and its kin.
std::string Quote(const std::string& text) {
  return absl::StrCat("'", absl::StrReplaceAll(text, {{"'", "'\\''"}}), "'");
}

std::vector<std::string> SubcommandNames(const CommandNode& command) {
  std::vector<std::string> names;
  for (const CommandNode& below : command.subcommands) {
    names.push_back(below.path.back());
  }
  return names;
}

// `pattern) action ;;` for every subcommand: what a word makes of the command so far.
std::string DescentCases(const CommandNode& root) {
  std::string cases;
  for (const CommandNode* command : AllCommands(root)) {
    if (command->path.size() > 1) {
      absl::StrAppendFormat(&cases, "      %s) command=%s ;;\n", Quote(Path(*command)), Quote(Path(*command)));
    }
  }
  return cases;
}

// Of options with values: what sets `values` to the choices, or `files` where anything may stand.
std::string ValueCases(const CommandNode& root) {
  std::string cases;
  for (const CommandNode* command : AllCommands(root)) {
    for (const OptionNode& option : command->options) {
      if (option.placeholder.empty()) {
        continue;
      }
      const std::string patterns = absl::StrJoin(option.names, "|", [&](std::string* out, const std::string& name) {
        absl::StrAppend(out, Quote(absl::StrCat(Path(*command), " ", name)));
      });
      absl::StrAppendFormat(
          &cases, "    %s) %s ;;\n", patterns,
          option.choices.empty() ? "files=1" : absl::StrCat("values=", Quote(absl::StrJoin(option.choices, " "))));
    }
  }
  return cases;
}

// What each command takes: `flags`, `below` (subcommands and a positional's choices), `files`.
std::string WordCases(const CommandNode& root) {
  std::string cases;
  for (const CommandNode* command : AllCommands(root)) {
    std::vector<std::string> options;
    for (const OptionNode& option : command->options) {
      options.insert(options.end(), option.names.begin(), option.names.end());
    }
    std::vector<std::string> below = SubcommandNames(*command);
    bool files = false;
    for (const OptionNode& positional : command->positionals) {
      below.insert(below.end(), positional.choices.begin(), positional.choices.end());
      files = files || positional.choices.empty();
    }
    absl::StrAppendFormat(&cases, "    %s) flags=%s below=%s%s ;;\n", Quote(Path(*command)),
                          Quote(absl::StrJoin(options, " ")), Quote(absl::StrJoin(below, " ")),
                          files ? " files=1" : "");
  }
  return cases;
}

}  // namespace

std::string BashCompletion(const CommandNode& root) {
  const std::string& name = root.path[0];
  return absl::StrCat("# bash completion of ", name, ", made by `", name, " completion bash`: source it.\n_", name,
                      R"(() {
  local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} command=)",
                      Quote(name), R"( i
  local flags='' below='' values='' files=''
  # --option=value comes as three words.
  if [[ $current == = ]]; then
    current=''
  elif [[ $previous == = ]]; then
    previous=${COMP_WORDS[COMP_CWORD - 2]}
  fi
  for ((i = 1; i < COMP_CWORD; i++)); do
    case "$command ${COMP_WORDS[i]}" in
)",
                      DescentCases(root), R"(    esac
  done
  case "$command $previous" in
)",
                      ValueCases(root), R"(  esac
  COMPREPLY=()
  if [[ -n $values ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$values" -- "$current")
    return
  fi
  if [[ -z $files ]]; then
    case "$command" in
)",
                      WordCases(root), R"(    esac
    if [[ $current == -* ]]; then
      below=$flags files=''
    elif [[ -z $below && -z $files ]]; then
      below=$flags
    fi
    mapfile -t COMPREPLY < <(compgen -W "$below" -- "$current")
  fi
  if [[ -n $files ]]; then
    compopt -o filenames 2>/dev/null
    mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -f -- "$current")
  fi
}
complete -F _)",
                      name, " ", name, "\n");
}

std::string ZshCompletion(const CommandNode& root) {
  const std::string& name = root.path[0];
  return absl::StrCat("#compdef ", name, "\n# zsh completion of ", name, ", made by `", name,
                      " completion zsh`: a file _", name, " in a folder of $fpath, or source it.\n_", name, R"(() {
  local current=${words[CURRENT]} previous=${words[CURRENT-1]} command=)",
                      Quote(name), R"( i
  local flags='' below='' values='' files=''
  for ((i = 2; i < CURRENT; i++)); do
    case "$command ${words[i]}" in
)",
                      DescentCases(root), R"(    esac
  done
  if [[ $current == --*=* ]]; then
    previous=${current%%=*}
    compset -P '*='
  fi
  case "$command $previous" in
)",
                      ValueCases(root), R"(  esac
  if [[ -n $values ]]; then
    compadd -- ${=values}
    return
  fi
  if [[ -z $files ]]; then
    case "$command" in
)",
                      WordCases(root), R"(    esac
    if [[ $current == -* ]]; then
      below=$flags files=''
    elif [[ -z $below && -z $files ]]; then
      below=$flags
    fi
    compadd -- ${=below}
  fi
  [[ -z $files ]] || _files
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
  _)",
                      name, " \"$@\"\nelse\n  compdef _", name, " ", name, "\nfi\n");
}

std::string FishCompletion(const CommandNode& root) {
  const std::string& name = root.path[0];
  // fish's single quotes know two escapes.
  const auto quote = [](const std::string& text) {
    return absl::StrCat("'", absl::StrReplaceAll(text, {{"\\", "\\\\"}, {"'", "\\'"}}), "'");
  };
  std::string script = absl::StrCat("# fish completion of ", name, ", made by `", name, " completion fish`: a file ",
                                    name, ".fish in ~/.config/fish/completions.\n", "complete -c ", name, " -f\n");
  for (const CommandNode* command : AllCommands(root)) {
    std::string here;
    for (size_t i = 1; i < command->path.size(); ++i) {
      absl::StrAppend(&here, here.empty() ? "" : "; and ", "__fish_seen_subcommand_from ", command->path[i]);
    }
    const std::vector<std::string> names = SubcommandNames(*command);
    const std::string none_below =
        names.empty() ? "" : absl::StrCat("not __fish_seen_subcommand_from ", absl::StrJoin(names, " "));
    const std::string condition =
        here.empty() || none_below.empty() ? here + none_below : absl::StrCat(here, "; and ", none_below);
    const std::string start = absl::StrCat("complete -c ", name, " -n ", quote(condition));
    for (const CommandNode& below : command->subcommands) {
      absl::StrAppend(&script, start, " -a ", below.path.back(), " -d ", quote(below.description), "\n");
    }
    for (const OptionNode& positional : command->positionals) {
      absl::StrAppend(&script, start,
                      positional.choices.empty() ? std::string(" -F")
                                                 : absl::StrCat(" -a ", quote(absl::StrJoin(positional.choices, " "))),
                      "\n");
    }
    for (const OptionNode& option : command->options) {
      absl::StrAppend(&script, start);
      for (const std::string& flag : option.names) {
        absl::StrAppend(&script, flag[1] == '-' ? " -l " : " -s ",
                        absl::StripPrefix(absl::StripPrefix(flag, "-"), "-"));
      }
      if (!option.placeholder.empty()) {
        absl::StrAppend(&script, option.choices.empty()
                                     ? std::string(" -r -F")
                                     : absl::StrCat(" -x -a ", quote(absl::StrJoin(option.choices, " "))));
      }
      absl::StrAppend(&script, " -d ", quote(option.description), "\n");
    }
  }
  return script;
}

void AddCompletion(CLI::App& app, RunCommand& run) {
  auto shell = std::make_shared<std::string>();
  auto* command = app.add_subcommand("completion", "Print a script that completes this program's arguments in a shell");
  command->add_option("shell", *shell, "Which shell")->required()->check(CLI::IsMember({"bash", "zsh", "fish"}));
  command->footer("\nFor this shell alone: source <(flexquant completion bash)");
  command->callback([shell, &app, &run] {
    run = [shell, &app] {
      const CommandNode root = DescribeCommands(app);
      const std::string script = *shell == "bash"  ? BashCompletion(root)
                                 : *shell == "zsh" ? ZshCompletion(root)
                                                   : FishCompletion(root);
      std::fputs(script.c_str(), stdout);
      return absl::OkStatus();
    };
  });
}

}  // namespace flexquant::cli
