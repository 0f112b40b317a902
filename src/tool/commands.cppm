// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <filesystem>

export module fmmap.tool:commands;

export namespace fmmap::tool {

// What the program ends with.
enum class exit_status : int {
  fine = 0,
  problems = 1, // are in the file
  usage = 2,
  failed = 3, // to open, read or write what it was asked to
};

// The options of a command; each takes those that it has.
struct request {
  std::filesystem::path file;
  std::filesystem::path copy;    // that is made
  std::filesystem::path picture; // empty where none is wanted
  bool json = false;
  bool dry_run = false;
};

// Each writes what it finds to standard output, and throws fmmap::system_error where it cannot look.
[[nodiscard]] auto inspect(request const& wanted) -> exit_status;
[[nodiscard]] auto check(request const& wanted) -> exit_status;
[[nodiscard]] auto recover(request const& wanted) -> exit_status;
[[nodiscard]] auto snapshot(request const& wanted) -> exit_status;
[[nodiscard]] auto map(request const& wanted) -> exit_status;

} // namespace fmmap::tool
