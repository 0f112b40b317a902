// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <filesystem>
#include <functional>
#include <iterator>
#include <numeric>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "json.hpp"

module fmmap.tool;

import fmmap.core;
import :file_report;
import :picture;
import :text;

namespace fmmap::tool {

namespace {

constexpr std::uint64_t most_cells = 4096;

auto sum_of(std::vector<byte_range> const& ranges) -> std::uint64_t {
  return std::transform_reduce(ranges.begin(), ranges.end(), std::uint64_t{0}, std::plus{},
                               [](byte_range const& one) { return one.length; });
}

// What one cell after the other has of ranges that are in order.
class data_counter {
public:
  explicit data_counter(std::vector<byte_range> const& ranges) : next_{ranges.begin()}, end_{ranges.end()} {}

  auto count(std::uint64_t begin, std::uint64_t end) -> std::uint64_t {
    std::uint64_t bytes = 0;
    while (next_ != end_ && next_->offset < end) {
      auto const data_end = next_->offset + next_->length;
      bytes += std::min(end, data_end) - std::min(end, std::max(begin, next_->offset));
      if (data_end > end) {
        break;
      }
      ++next_;
    }
    return bytes;
  }

private:
  std::vector<byte_range>::const_iterator next_;
  std::vector<byte_range>::const_iterator end_;
};

// The last page of a file may reach past its end.
auto cut_to(residency_info memory, std::uint64_t bytes) -> residency_info {
  for (auto* const part : {&memory.resident_bytes, &memory.dirty_bytes, &memory.writeback_bytes}) {
    *part = std::min(*part, bytes);
  }
  return memory;
}

void add(residency_info& sum, residency_info const& part) {
  sum.resident_bytes += part.resident_bytes;
  sum.dirty_bytes += part.dirty_bytes;
  sum.writeback_bytes += part.writeback_bytes;
  sum.dirty_known = sum.dirty_known && part.dirty_known;
}

auto json_of(residency_info const& memory) -> nlohmann::ordered_json {
  auto const known = [&](std::uint64_t bytes) { return memory.dirty_known ? nlohmann::ordered_json(bytes) : nullptr; };
  return {{"resident_bytes", memory.resident_bytes},
          {"dirty_bytes", known(memory.dirty_bytes)},
          {"writeback_bytes", known(memory.writeback_bytes)}};
}

auto share_of(file_survey const& found, std::uint64_t bytes) -> std::string {
  return bytes_text(bytes) + ", " + share_text(bytes, found.file_bytes);
}

// What the system may not be able to tell.
auto known_share_of(file_survey const& found, std::uint64_t bytes) -> std::string {
  return found.memory.dirty_known ? share_of(found, bytes) : "unknown";
}

// By the layers of a picture, in bytes. What is being written or waits for it is in memory too.
using layered_bytes = std::array<std::uint64_t, 5>;

auto layers_in(cached_cell const& cell) -> layered_bytes {
  auto const& memory = cell.memory;
  auto const dirty = std::min(memory.dirty_bytes, memory.resident_bytes);
  auto const writeback = std::min(memory.writeback_bytes, memory.resident_bytes - dirty);
  auto const absent = cell.bytes - memory.resident_bytes;
  auto const hole = std::min(absent, cell.bytes - cell.data_bytes);
  return {dirty, writeback, memory.resident_bytes - dirty - writeback, absent - hole, hole};
}

auto parts_of(cached_cell const& cell) -> std::vector<double> {
  std::vector<double> parts;
  std::ranges::transform(layers_in(cell), std::back_inserter(parts), [&](std::uint64_t bytes) {
    return static_cast<double>(bytes) / static_cast<double>(cell.bytes);
  });
  return parts;
}

auto layers_in(file_survey const& found) -> layered_bytes {
  layered_bytes sum{};
  for (auto const& cell : found.cells) {
    std::ranges::transform(sum, layers_in(cell), sum.begin(), std::plus{});
  }
  return sum;
}

} // namespace

auto survey_file(std::filesystem::path const& path,
                 std::function<void(std::uint64_t done, std::uint64_t total)> const& progress) -> file_survey {
  auto const opened = or_throw(file::open(path));
  auto const about = or_throw(opened.metadata());
  auto const mapped = or_throw(mapping::map(opened));
  auto const size = std::uint64_t{mapped.size()};
  file_survey found{
      .file_bytes = size,
      .allocated_bytes = about.allocated_bytes,
      .data = or_throw(opened.data_ranges({.offset = 0, .length = mapped.size()})),
      .memory = {.dirty_known = true},
      .cell_bytes = std::max<std::uint64_t>(std::bit_ceil((size + most_cells - 1) / most_cells), system_page_size()),
      .cells = {}};
  data_counter data{found.data};
  for (std::uint64_t at = 0; at < size; at += found.cell_bytes) {
    progress(at, size);
    auto const bytes = std::min(found.cell_bytes, size - at);
    auto const memory = or_throw(mapped.residency({.offset = at, .length = static_cast<std::size_t>(bytes)}));
    found.cells.push_back({.bytes = bytes, .data_bytes = data.count(at, at + bytes), .memory = cut_to(memory, bytes)});
    add(found.memory, found.cells.back().memory);
  }
  return found;
}

void print(std::ostream& to, std::filesystem::path const& file, file_survey const& found) {
  auto const data = sum_of(found.data);
  to << printable(file.native()) << '\n';
  text_table rows{{text_table::column::left, text_table::column::left}};
  rows.add({"size", exact_bytes_text(found.file_bytes)});
  rows.add({"blocks", exact_bytes_text(found.allocated_bytes)});
  rows.add({"data", share_of(found, data) + ", in " + count_text(found.data.size(), "range")});
  rows.add({"holes", share_of(found, found.file_bytes - data)});
  rows.add({"in memory", share_of(found, found.memory.resident_bytes)});
  rows.add({"dirty", known_share_of(found, found.memory.dirty_bytes)});
  rows.add({"being written", known_share_of(found, found.memory.writeback_bytes)});
  rows.print(to, "  ");
}

auto json_of(std::filesystem::path const& file, file_survey const& found) -> std::string {
  nlohmann::ordered_json all{{"file", file.native()},
                             {"file_bytes", found.file_bytes},
                             {"allocated_bytes", found.allocated_bytes},
                             {"data", nlohmann::ordered_json::array()},
                             {"memory", json_of(found.memory)},
                             {"cell_bytes", found.cell_bytes},
                             {"cells", nlohmann::ordered_json::array()}};
  for (auto const& range : found.data) {
    all["data"].push_back({{"offset", range.offset}, {"bytes", range.length}});
  }
  for (auto const& cell : found.cells) {
    auto one = json_of(cell.memory);
    one["data_bytes"] = cell.data_bytes;
    all["cells"].push_back(std::move(one));
  }
  return written(all);
}

auto picture_of(std::filesystem::path const& file, file_survey const& found) -> picture {
  auto const sums = layers_in(found);
  picture shown{.title = file.filename().native() + ": what is in memory",
                .notes = {exact_bytes_text(found.file_bytes) + ", with blocks for " + bytes_text(found.allocated_bytes),
                          "A cell is " + bytes_text(found.cell_bytes) + "."},
                .layers = {{"#e08214", "in memory, dirty", known_share_of(found, sums[0])},
                           {"hatched", "in memory, being written", known_share_of(found, sums[1])},
                           {"#2166ac", "in memory", share_of(found, sums[2])},
                           {"#d1e5f0", "data that is not in memory", share_of(found, sums[3])},
                           {"#ffffff", "holes that are not in memory", share_of(found, sums[4])}},
                .cell_bytes = found.cell_bytes,
                .cells = {}};
  std::ranges::transform(found.cells, std::back_inserter(shown.cells), parts_of);
  return shown;
}

} // namespace fmmap::tool
