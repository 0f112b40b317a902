// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <filesystem>
#include <iosfwd>
#include <string>

// What was found in the file of a heap, told.
module fmmap.tool:heap_report;

import fmmap.pmr;
import :picture;

namespace fmmap::tool {

// A heap's file by its name, and what was found in it.
struct inspected_heap {
  std::filesystem::path const& file;
  heap_inspection const& found;
};

void print(std::ostream& to, inspected_heap const& heap);
[[nodiscard]] auto json_of(inspected_heap const& heap) -> std::string;
[[nodiscard]] auto picture_of(inspected_heap const& heap) -> picture;

// What is wrong, in a line for each problem.
void print_problems(std::ostream& to, inspected_heap const& heap);

// Whether it is sound, in a line, or what is wrong.
void print_verdict(std::ostream& to, inspected_heap const& heap);
[[nodiscard]] auto verdict_json_of(inspected_heap const& heap) -> std::string;

// What recovering has done, or would do.
void print_recovery(std::ostream& to, inspected_heap const& heap, bool is_done);
[[nodiscard]] auto recovery_json_of(inspected_heap const& heap, bool is_done) -> std::string;

} // namespace fmmap::tool
