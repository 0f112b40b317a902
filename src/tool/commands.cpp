// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <filesystem>
#include <functional>
#include <iostream>
#include <span>
#include <string>
#include <string_view>
#include <system_error>

#include <unistd.h>

#include "json.hpp"

module fmmap.tool;

import fmmap.core;
import fmmap.pmr;
import :commands;
import :file_report;
import :heap_report;
import :picture;
import :text;

namespace fmmap::tool {

namespace {

// How far it is, in a line on a terminal that is gone again when it is done.
class progress_line {
public:
  progress_line() = default;
  progress_line(progress_line const&) = delete;
  auto operator=(progress_line const&) -> progress_line& = delete;
  ~progress_line() {
    if (shown_ >= 0) {
      std::cerr << "\r     \r" << std::flush;
    }
  }

  void operator()(std::uint64_t done, std::uint64_t total) {
    auto const percent =
        total == 0 ? 100 : static_cast<int>(100 * static_cast<double>(done) / static_cast<double>(total));
    if (is_terminal_ && percent != shown_) {
      shown_ = percent;
      std::cerr << '\r' << percent << " %" << std::flush;
    }
  }

private:
  bool is_terminal_ = ::isatty(STDERR_FILENO) == 1;
  int shown_ = -1;
};

auto look_at(std::filesystem::path const& file) -> heap_inspection {
  progress_line progress;
  return or_throw(inspect_heap(file, std::ref(progress)));
}

void draw(request const& wanted, picture const& shown) {
  auto const text = svg_of(shown);
  or_throw(replace_file(
      wanted.picture, text.size(),
      [&](std::span<std::byte> bytes) { std::ranges::copy(std::as_bytes(std::span{text}), bytes.begin()); },
      {.level = durability::none, .permissions = 0666}));
}

// A picture takes the place of what has its name.
auto would_overwrite(request const& wanted) -> bool {
  std::error_code of_missing_files;
  return !wanted.picture.empty() && std::filesystem::equivalent(wanted.file, wanted.picture, of_missing_files);
}

auto refuse_to_overwrite(request const& wanted) -> exit_status {
  std::cerr << "fmmap: " << printable(wanted.picture.native())
            << " is the file that is looked at; the picture needs another\n";
  return exit_status::usage;
}

auto status_of(heap_inspection const& found) -> exit_status {
  return found.problems.empty() ? exit_status::fine : exit_status::problems;
}

} // namespace

auto inspect(request const& wanted) -> exit_status {
  if (would_overwrite(wanted)) {
    return refuse_to_overwrite(wanted);
  }
  auto const found = look_at(wanted.file);
  inspected_heap const heap{.file = wanted.file, .found = found};
  if (!wanted.picture.empty()) {
    draw(wanted, picture_of(heap));
  }
  if (wanted.json) {
    std::cout << json_of(heap);
  } else {
    print(std::cout, heap);
  }
  return status_of(found);
}

auto check(request const& wanted) -> exit_status {
  auto const found = look_at(wanted.file);
  inspected_heap const heap{.file = wanted.file, .found = found};
  if (wanted.json) {
    std::cout << verdict_json_of(heap);
  } else {
    print_verdict(std::cout, heap);
  }
  return status_of(found);
}

// What has problems is left as it is: opening would refuse it.
auto recover(request const& wanted) -> exit_status {
  auto const found = look_at(wanted.file);
  inspected_heap const heap{.file = wanted.file, .found = found};
  auto const does_it = found.problems.empty() && !wanted.dry_run;
  if (does_it) {
    auto opened = or_throw(persistent_heap::open(wanted.file));
    or_throw(opened.close());
  }
  if (wanted.json) {
    std::cout << recovery_json_of(heap, does_it);
  } else if (found.problems.empty()) {
    print_recovery(std::cout, heap, does_it);
  } else {
    print_problems(std::cout, heap);
  }
  return status_of(found);
}

auto snapshot(request const& wanted) -> exit_status {
  auto const heap = or_throw(persistent_heap::open_read_only(wanted.file));
  or_throw(heap.snapshot(wanted.copy));
  auto const bytes = or_throw(or_throw(file::open(wanted.copy)).size());
  if (wanted.json) {
    std::cout << written({{"file", wanted.file.native()}, {"snapshot", wanted.copy.native()}, {"bytes", bytes}});
  } else {
    std::cout << printable(wanted.copy.native()) << ": a snapshot of " << printable(wanted.file.native()) << ", "
              << exact_bytes_text(bytes) << '\n';
  }
  return exit_status::fine;
}

auto map(request const& wanted) -> exit_status {
  if (would_overwrite(wanted)) {
    return refuse_to_overwrite(wanted);
  }
  auto const found = [&] {
    progress_line progress;
    return survey_file(wanted.file, std::ref(progress));
  }();
  if (!wanted.picture.empty()) {
    draw(wanted, picture_of(wanted.file, found));
  }
  if (wanted.json) {
    std::cout << json_of(wanted.file, found);
  } else {
    print(std::cout, wanted.file, found);
  }
  return exit_status::fine;
}

} // namespace fmmap::tool
