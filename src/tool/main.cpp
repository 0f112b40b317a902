// SPDX-License-Identifier: MIT OR Apache-2.0
//
// fmmap inspect | check | recover | snapshot | map FILE: docs/tool.md

#include <exception>
#include <functional>
#include <iostream>
#include <string>
#include <utility>

#include <CLI/CLI.hpp>

import fmmap.tool;

namespace {

using fmmap::tool::exit_status;
using fmmap::tool::request;

// The commands and their options, which go to `wanted`, and the one that is chosen to `run`.
class command_line {
public:
  command_line(request& wanted, std::function<exit_status(request const&)>& run) : wanted_{wanted}, run_{run} {
    app_.require_subcommand(1);
    app_.set_version_flag("--version", "fmmap " FMMAP_VERSION);
    app_.footer("Exit status: 0 fine, 1 problems found, 2 usage, 3 a file could not be opened, read or written.");
    auto& inspect = add("inspect", "Tells what is in the file of a heap", fmmap::tool::inspect);
    inspect.add_option("--svg", wanted_.picture, "Draws what its pages are into this file");
    add("check", "Tells whether a heap is sound", fmmap::tool::check);
    auto& recover = add("recover", "Brings commits in place that are in a heap's journal", fmmap::tool::recover);
    recover.add_flag("--dry-run", wanted_.dry_run, "Tells what would be done, and writes nothing");
    auto& snapshot = add("snapshot", "Copies a heap as its last commit has left it", fmmap::tool::snapshot);
    snapshot.add_option("TO", wanted_.copy, "The copy, which must not exist")->required();
    auto& map = add("map", "Tells which parts of any file have blocks and are in memory", fmmap::tool::map);
    map.add_option("--svg", wanted_.picture, "Draws which pages are in memory into this file");
  }

  void parse(int argc, char** argv) { app_.parse(argc, argv); }

  // Says what is wrong with the arguments, or what was asked about them.
  auto explain(CLI::ParseError const& why) -> exit_status {
    return app_.exit(why) == 0 ? exit_status::fine : exit_status::usage;
  }

private:
  auto add(std::string const& name, std::string const& purpose, exit_status (*command)(request const&)) -> CLI::App& {
    auto& made = *app_.add_subcommand(name, purpose);
    made.add_option("FILE", wanted_.file, "The file")->required();
    made.add_flag("--json", wanted_.json, "Prints JSON");
    made.callback([this, command] { run_ = command; });
    return made;
  }

  request& wanted_;
  std::function<exit_status(request const&)>& run_;
  CLI::App app_{"Looks at the files of persistent heaps, and at which parts of files are in memory.", "fmmap"};
};

auto run(int argc, char** argv) -> exit_status {
  request wanted;
  std::function<exit_status(request const&)> chosen;
  command_line line{wanted, chosen};
  try {
    line.parse(argc, argv);
  } catch (CLI::ParseError const& why) {
    return line.explain(why);
  }
  auto const status = chosen(wanted);
  if (!std::cout.flush()) {
    std::cerr << "fmmap: cannot write to standard output\n";
    return exit_status::failed;
  }
  return status;
}

} // namespace

auto main(int argc, char** argv) -> int {
  try {
    return static_cast<int>(run(argc, argv));
  } catch (std::exception const& why) {
    std::cerr << "fmmap: " << why.what() << '\n';
    return static_cast<int>(exit_status::failed);
  }
}
