// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <cstdint>
#include <filesystem>
#include <functional>
#include <iosfwd>
#include <string>
#include <vector>

// Of any regular file, what of it has blocks, is in memory, and is not written yet.
module fmmap.tool:file_report;

import fmmap.core;
import :picture;

namespace fmmap::tool {

// Some pages of a file that are neighbours, in bytes.
struct cached_cell {
  std::uint64_t bytes = 0; // less than in others at the end of the file
  std::uint64_t data_bytes = 0;
  residency_info memory;
};

struct file_survey {
  std::uint64_t file_bytes = 0;
  std::uint64_t allocated_bytes = 0;
  std::vector<byte_range> data;
  residency_info memory;
  std::uint64_t cell_bytes = 0;
  std::vector<cached_cell> cells;
};

// Looks at a file without reading it. Throws fmmap::system_error.
[[nodiscard]] auto survey_file(std::filesystem::path const& path,
                               std::function<void(std::uint64_t done, std::uint64_t total)> const& progress)
    -> file_survey;

void print(std::ostream& to, std::filesystem::path const& file, file_survey const& found);
[[nodiscard]] auto json_of(std::filesystem::path const& file, file_survey const& found) -> std::string;
[[nodiscard]] auto picture_of(std::filesystem::path const& file, file_survey const& found) -> picture;

} // namespace fmmap::tool
