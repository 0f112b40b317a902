// SPDX-License-Identifier: MIT OR Apache-2.0

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <expected>
#include <filesystem>
#include <fstream>
#include <functional>
#include <ranges>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "support/machine_code.hpp"
#include "support/mounts.hpp"
#include "support/outcome.hpp"
#include "support/process.hpp"
#include "support/scratch.hpp"

import fmmap.core;
import fmmap.os;

// What went wrong in other libraries and is not shown not to go wrong here by another test; docs/defects.md has the list.
// A case is named after what went wrong.

using fmmap::access;
using fmmap::byte_range;
using fmmap::durability;
using fmmap::errc;
using fmmap::file;
using fmmap::file_view;
using fmmap::mapped_file;
using fmmap::mapping;
using fmmap::mutable_mapped_file;
using fmmap::or_throw;
using fmmap::os::call;
namespace seam = fmmap::os::seam;
using seam::armed;

namespace {

constexpr std::size_t page = 4096;

constexpr std::array syncs{call::fsync, call::fdatasync, call::syncfs, call::sync_file_range, call::msync};

auto any_of(std::vector<call> const& made, auto const&... kinds) -> bool {
  return std::ranges::any_of(made, [&](call one) { return ((one == kinds) || ...); });
}

auto any_sync(std::vector<call> const& made) -> bool {
  return std::ranges::any_of(made, [](call one) { return std::ranges::find(syncs, one) != syncs.end(); });
}

// The lines of /proc/self/maps that name this file.
auto mappings_of(std::string_view name) -> std::vector<std::string> {
  std::vector<std::string> found;
  std::ifstream maps{"/proc/self/maps"};
  for (std::string line; std::getline(maps, line);) {
    if (line.find(name) != std::string::npos) {
      found.push_back(line);
    }
  }
  return found;
}

// The end of a path, as the system tells it: without the way here.
auto name_in(scratch const& s, std::string_view file) -> std::string {
  return s.folder().filename().string() + '/' + std::string{file};
}

auto permissions_of(std::filesystem::path const& path) -> unsigned {
  return static_cast<unsigned>(std::filesystem::status(path).permissions());
}

} // namespace

BOOST_AUTO_TEST_SUITE(what_went_wrong_elsewhere)

BOOST_AUTO_TEST_CASE(removing_after_closing_claimed_success_and_removed_nothing) {
  scratch const s;
  auto const path = s.file("data", "abc");
  auto writing = or_throw(mutable_mapped_file::open_existing(path));
  or_throw(writing.close());
  BOOST_TEST(fails(writing.remove(), errc::closed));
  auto reading = or_throw(mapped_file::open(path));
  or_throw(reading.close());
  BOOST_TEST(fails(reading.remove(), errc::closed));
  BOOST_TEST(std::filesystem::exists(path));
}

BOOST_AUTO_TEST_CASE(the_wish_to_remove_on_closing_was_lost_by_closing_moving_and_freezing) {
  scratch const s;
  auto const open = [&] {
    auto made = or_throw(mutable_mapped_file::create(s / "data", {.size = 10}));
    made.set_remove_on_close(true);
    return made;
  };
  auto closed = open();
  or_throw(closed.close());
  BOOST_TEST(!std::filesystem::exists(s / "data"));
  {
    auto source = open();
    auto const moved = std::move(source);
    BOOST_TEST(moved.removes_on_close());
    source = mutable_mapped_file{};
    BOOST_TEST(std::filesystem::exists(s / "data")); // the source took nothing with it
  }
  BOOST_TEST(!std::filesystem::exists(s / "data"));
  {
    auto const frozen = or_throw(open().freeze());
    BOOST_TEST(frozen.removes_on_close());
    BOOST_TEST(std::filesystem::exists(s / "data"));
  }
  BOOST_TEST(!std::filesystem::exists(s / "data"));
  {
    auto frozen = or_throw(open().freeze_executable());
    or_throw(frozen.close());
  }
  BOOST_TEST(!std::filesystem::exists(s / "data"));
}

BOOST_AUTO_TEST_CASE(growing_failed_once_the_path_led_elsewhere) {
  scratch const s;
  BOOST_TEST(found_in_child([&](findings& found) {
               std::filesystem::permissions(s.folder(), std::filesystem::perms::all);
               std::filesystem::current_path(s.folder());
               found.expect(!is_root() || become_ordinary_user(), "root cannot be given up");
               std::filesystem::create_directory("folder");
               auto f = or_throw(mutable_mapped_file::create("folder/data", {.size = 10, .reserve = 1U << 20}));
               auto const grows = [&](std::string_view when) {
                 auto const size = f.size() + 3 * page;
                 auto const grown = f.resize(size, durability::data);
                 found.expect(grown.has_value() && f.size() == size && or_throw(f.metadata()).size == size, when);
                 found.expect(f.append(bytes_of("more")).has_value(), when);
               };
               std::filesystem::permissions("folder", std::filesystem::perms{0311});
               grows("not in a directory that cannot be read");
               std::filesystem::rename("folder/data", "folder/other");
               grows("not after a rename");
               std::filesystem::current_path("/");
               grows("not after the working directory has changed");
               std::filesystem::remove(s / "folder/other");
               grows("not after the file has been removed");
             }) == "");
}

BOOST_AUTO_TEST_CASE(copy_on_write_asked_for_permission_to_write) {
  scratch const s;
  BOOST_TEST(found_in_child([&](findings& found) {
               std::filesystem::permissions(s.folder(), std::filesystem::perms::all);
               std::filesystem::permissions(s.file("data", "abc"), std::filesystem::perms{0444});
               std::filesystem::current_path(s.folder());
               found.expect(!is_root() || become_ordinary_user(), "root cannot be given up");
               found.expect(fails(mutable_mapped_file::open_existing("data"), std::errc::permission_denied),
                            "a file without permission to write was opened for writing");
               auto f = or_throw(mutable_mapped_file::open_copy_on_write("data"));
               f.writable_bytes()[1] = std::byte{'x'};
               found.expect(f.text() == "axc", "the bytes cannot be changed");
               found.expect(read_back("data") == "abc", "the file was changed");
             }) == "");
}

BOOST_AUTO_TEST_CASE(permissions_were_ignored_when_a_file_was_created_with_options) {
  scratch const s;
  auto const mask = ::umask(0);
  or_throw(mutable_mapped_file::create(s / "a", {.permissions = 0640}));
  or_throw(mutable_mapped_file::open(s / "b", {.permissions = 0604}));
  or_throw(file::create_new(s / "c", {.permissions = 0600}));
  or_throw(mapped_file::open(s / "a")).copy_to(s / "d", fmmap::whole, {.permissions = 0444}).value();
  ::umask(mask);
  BOOST_TEST(permissions_of(s / "a") == 0640U);
  BOOST_TEST(permissions_of(s / "b") == 0604U);
  BOOST_TEST(permissions_of(s / "c") == 0600U);
  BOOST_TEST(permissions_of(s / "d") == 0444U);
}

BOOST_AUTO_TEST_CASE(options_were_ignored_by_some_ways_of_opening) {
  scratch const s;
  auto const path = s.file("data", pattern(2 * page));
  std::filesystem::create_symlink("data", s / "link");
  using reading = fmmap::result<mapped_file> (*)(std::filesystem::path const&, fmmap::read_options);
  using writing = fmmap::result<mutable_mapped_file> (*)(std::filesystem::path const&, fmmap::write_options);
  auto const refuse = fmmap::symlinks::refuse_last;
  auto const huge = fmmap::page_size::require_huge; // which an ordinary file cannot be mapped with
  for (reading const open : {reading{mapped_file::open}, reading{mapped_file::open_executable}}) {
    BOOST_TEST(fails(open(s / "link", {.symlinks = refuse}), errc::symbolic_link));
    BOOST_TEST(fails(open(path, {.page_size = huge}), std::errc::invalid_argument));
    BOOST_TEST(or_throw(open(path, {.range = {.offset = 5, .length = 7}})).text() == pattern(2 * page).substr(5, 7));
    armed const table;
    or_throw(open(path, {.populate = true}));
    BOOST_TEST(any_of(seam::calls(), call::madvise));
  }
  for (writing const open : {writing{mutable_mapped_file::open}, writing{mutable_mapped_file::open_existing},
                             writing{mutable_mapped_file::open_copy_on_write}}) {
    BOOST_TEST(fails(open(s / "link", {.symlinks = refuse}), errc::symbolic_link));
    BOOST_TEST(fails(open(path, {.page_size = huge}), std::errc::invalid_argument));
    BOOST_TEST(or_throw(open(path, {.reserve = 1U << 20})).capacity() >= 1U << 20);
    armed const table;
    or_throw(open(path, {.populate = true}));
    BOOST_TEST(any_of(seam::calls(), call::madvise));
  }
  for (writing const open : {writing{mutable_mapped_file::create}, writing{mutable_mapped_file::open},
                             writing{mutable_mapped_file::temporary}}) {
    auto const at = open == writing{mutable_mapped_file::temporary} ? s.folder() : s / "new";
    BOOST_TEST(fails(open(at, {.size = page, .page_size = huge}), std::errc::invalid_argument));
    BOOST_TEST(!std::filesystem::exists(s / "new"));
    auto fixed = or_throw(open(at, {.size = page, .reserve = 2 * page, .may_move = false}));
    BOOST_TEST(fixed.size() == page);
    BOOST_TEST(fails(fixed.resize(fixed.capacity() + 1), errc::reservation_exceeded));
    std::filesystem::remove(s / "new");
  }
  BOOST_TEST(fails(mutable_mapped_file::open_copy_on_write(path, {.size = page}), errc::invalid_options));
}

BOOST_AUTO_TEST_CASE(a_range_outside_of_the_file_ended_the_program) {
  scratch const s;
  auto const content = pattern(100);
  auto f = or_throw(mutable_mapped_file::open(s.file("data", content)));
  for (byte_range const range :
       {byte_range{.offset = 101, .length = 0}, byte_range{.offset = 0, .length = 101},
        byte_range{.offset = 99, .length = 2}, byte_range{.offset = 101}, byte_range{.offset = UINT64_MAX, .length = 1},
        byte_range{.offset = 1, .length = fmmap::to_end - 1}}) {
    BOOST_TEST_CONTEXT(range.offset << " " << range.length) {
      BOOST_TEST(fails(f.zero(range), errc::out_of_range));
      BOOST_TEST(fails(f.fill(range, std::byte{1}), errc::out_of_range));
      BOOST_TEST(fails(f.to_vector(range), errc::out_of_range));
      BOOST_TEST(fails(f.reader(range), errc::out_of_range));
      BOOST_TEST(fails(f.writer(range), errc::out_of_range));
      BOOST_TEST(fails(f.copy_to(s / "copy", range), errc::out_of_range));
      BOOST_TEST(!std::filesystem::exists(s / "copy"));
    }
  }
  BOOST_TEST(read_back(s / "data") == content);
}

BOOST_AUTO_TEST_CASE(a_range_that_fits_exactly_was_refused_and_one_that_overflows_ended_the_program) {
  scratch const s;
  auto f = or_throw(mutable_mapped_file::open(s.file("data", pattern(100))));
  BOOST_TEST(or_throw(f.bytes(0, 100)).size() == 100U);
  BOOST_TEST(or_throw(f.bytes(100, 0)).empty());
  BOOST_TEST(or_throw(f.writable_bytes(0, 100)).size() == 100U);
  BOOST_TEST(or_throw(f.writable_bytes(100, 0)).empty());
  BOOST_TEST(or_throw(f.reader({.offset = 60, .length = 40})).size() == 40U);
  BOOST_TEST(or_throw(f.writer({.offset = 60, .length = 40})).size() == 40U);
  BOOST_TEST((or_throw(f.read<std::array<char, 100>>(0)).size() == 100U));
  std::vector<std::byte> all(100);
  or_throw(f.read_exactly(0, all));
  or_throw(f.write_exactly(0, all));

  BOOST_TEST(fails(f.bytes(UINT64_MAX, 100), errc::out_of_range));
  BOOST_TEST(fails(f.bytes(100, SIZE_MAX - 1), errc::out_of_range));
  BOOST_TEST(fails(f.writable_bytes(UINT64_MAX, 100), errc::out_of_range));
  BOOST_TEST(fails(f.reader({.offset = UINT64_MAX - 1, .length = 100}), errc::out_of_range));
  BOOST_TEST(fails(f.writer({.offset = UINT64_MAX - 1, .length = 100}), errc::out_of_range));
  BOOST_TEST(fails(f.read_le<std::uint64_t>(UINT64_MAX), errc::out_of_range));
  BOOST_TEST(fails(f.write_le<std::uint64_t>(UINT64_MAX - 3, 1), errc::out_of_range));
  BOOST_TEST(fails(f.view<std::uint64_t>(0, SIZE_MAX / 4), errc::out_of_range));
  BOOST_TEST(f.read_at(UINT64_MAX, all) == 0U);
  BOOST_TEST(f.write_at(UINT64_MAX, all) == 0U);
}

BOOST_AUTO_TEST_CASE(a_file_cut_by_another_process_killed_who_read_it) {
  scratch const s;
  auto const content = pattern(4 * page);
  auto const path = s.file("data", content);
  auto f = or_throw(mutable_mapped_file::open(path));
  BOOST_TEST(end_of(start_child([&] { return ::truncate(path.c_str(), page) == 0 ? 0 : 1; })) == 0);
  or_throw(fmmap::install_fault_handler()); // the test framework has set its own

  BOOST_TEST(or_throw(f.metadata()).size == page);
  std::vector<std::byte> copy(4 * page);
  BOOST_TEST(fails(fmmap::guarded_copy_out(f.bytes(), copy), errc::truncated));
  BOOST_TEST(fails(fmmap::guarded_copy_in(bytes_of(content), f.writable_bytes()), errc::truncated));
  auto const last = fmmap::guarded(f.bytes(), [](std::span<std::byte const> bytes) { return bytes.back(); });
  BOOST_TEST(fails(last, errc::truncated));
  or_throw(fmmap::guarded_copy_out(f.bytes().first(page), copy)); // what there is can still be read
  BOOST_TEST((text_of(std::span{copy}.first(page)) == content.substr(0, page)));
}

BOOST_AUTO_TEST_CASE(pages_without_blocks_could_not_be_asked_for_without_being_killed) {
  scratch const s;
  std::filesystem::create_directory(s / "disk");
  BOOST_TEST(found_in_child([&](findings& found) {
               auto problem = own_mounts();
               if (problem.empty()) {
                 problem = mount_tmpfs(s / "disk", "size=1m");
               }
               if (!problem.empty()) {
                 found.skip(problem);
                 return;
               }
               auto sparse = or_throw(file::create_new(s / "disk/data"));
               or_throw(sparse.resize(4U << 20));
               auto f = or_throw(mutable_mapped_file::adopt(std::move(sparse)));
               found.expect(!f.as_mapping().advise(fmmap::advice::populate_write), "more pages than there are blocks");
               found.expect(fails(f.fill(fmmap::whole, std::byte{1}), std::errc::no_space_on_device), "fill");
               found.expect(
                   f.as_mapping().advise(fmmap::advice::populate_write, {.offset = 0, .length = page}).has_value(),
                   "as many as there are");
               f.writable_bytes()[0] = std::byte{1};
             }) == "");
}

BOOST_AUTO_TEST_CASE(a_reader_beside_a_writer_and_a_second_window_were_refused) {
  scratch const s;
  auto const path = s.file("data", pattern(3 * page));
  auto first = or_throw(mutable_mapped_file::open(path));
  auto const reader = or_throw(mapped_file::open(path));
  auto const other = or_throw(file::open(path, {.access = access::read_write}));
  auto window = or_throw(mapping::map(other, {.access = access::read_write, .range = {.offset = page + 1}}));
  auto const unchanging = or_throw(mutable_mapped_file::open_copy_on_write(path));
  first.writable_bytes()[page + 1] = std::byte{1};
  window.writable_bytes()[1] = std::byte{2};
  BOOST_TEST((reader.bytes()[page + 1] == std::byte{1}));
  BOOST_TEST((reader.bytes()[page + 2] == std::byte{2}));
  BOOST_TEST((first.bytes()[page + 2] == std::byte{2}));
  or_throw(first.append(bytes_of("appended"))); // while the others look
  BOOST_TEST(or_throw(mapped_file::open(path)).text().ends_with("appended"));
}

BOOST_AUTO_TEST_CASE(executable_files_were_never_tried) {
  auto const code = returns_42();
  if (code.empty()) {
    skip("there is no code for this processor");
    return;
  }
  scratch const s;
  auto const runs = [](mapped_file const& f) {
    BOOST_TEST(f.is_executable());
    return called(f.bytes());
  };
  BOOST_TEST(runs(or_throw(mapped_file::open_executable(s.file("code", code)))) == 42);
  auto made = or_throw(mutable_mapped_file::create(s / "made", {.size = code.size()}));
  or_throw(made.write_exactly(0, bytes_of(code)));
  BOOST_TEST(runs(or_throw(std::move(made).freeze_executable())) == 42);
  BOOST_TEST(!or_throw(mapped_file::open(s / "made")).is_executable());
}

BOOST_AUTO_TEST_CASE(a_closed_handle_passed_for_an_empty_file) {
  scratch const s;
  auto const path = s.file("empty", "");
  auto reading = or_throw(mapped_file::open(path));
  auto writing = or_throw(mutable_mapped_file::open(path));
  auto viewing = or_throw(file_view::open(path));
  auto const ask = [&](auto& f, bool closed) {
    BOOST_TEST(f.is_open() != closed);
    BOOST_TEST(f.empty());
    BOOST_TEST(fails(f.bytes(0, 0), errc::closed) == closed);
    BOOST_TEST(fails(f.to_vector(), errc::closed) == closed);
    BOOST_TEST(fails(f.reader(), errc::closed) == closed);
    BOOST_TEST(fails(f.copy_to(s / "copy"), errc::closed) == closed);
    BOOST_TEST(std::filesystem::exists(s / "copy") != closed);
    std::filesystem::remove(s / "copy");
  };
  ask(reading, false);
  ask(writing, false);
  ask(viewing, false);
  or_throw(reading.close());
  or_throw(writing.close());
  viewing = file_view{};
  ask(reading, true);
  ask(writing, true);
  ask(viewing, true);
  mapped_file never_opened;
  ask(never_opened, true);
}

BOOST_AUTO_TEST_CASE(growing_and_shrinking_synced_and_mapped_anew) {
  scratch const s;
  auto f = or_throw(mutable_mapped_file::create(s / "data", {.size = 64 * page, .reserve = 1U << 30}));
  auto const* const before = f.bytes().data();
  f.writable_bytes()[0] = std::byte{1}; // there is something to write back
  for (auto const size : {128 * page, 300 * page + 7, 65 * page}) {
    armed const table;
    or_throw(f.resize(size));
    auto const made = seam::calls();
    BOOST_TEST(!any_sync(made));
    BOOST_TEST(!any_of(made, call::mmap, call::munmap, call::mremap, call::openat, call::openat2));
    BOOST_TEST(made.size() <= 4U);
  }
  BOOST_TEST((f.bytes().data() == before));
}

BOOST_AUTO_TEST_CASE(memory_with_the_name_of_a_file_took_the_file_with_it) {
  scratch const s;
  auto const path = s.file("data", "abc");
  {
    auto memory = or_throw(mutable_mapped_file::in_memory("data", 10));
    memory.set_remove_on_close(true);
    auto frozen = or_throw(mutable_mapped_file::in_memory("data", 10).value().freeze());
    frozen.set_remove_on_close(true);
    BOOST_TEST(found_in_child([&](findings& found) {
                 std::filesystem::current_path(s.folder());
                 auto other = or_throw(mutable_mapped_file::in_memory("data", 10));
                 other.set_remove_on_close(true);
                 found.expect(other.close().has_value(), "memory is not closed");
               }) == "");
  }
  BOOST_TEST(read_back(path) == "abc");
}

BOOST_AUTO_TEST_CASE(advice_for_bytes_past_the_end_reached_the_neighbour) {
  scratch const s;
  auto const f = or_throw(mapped_file::open(s.file("data", pattern(page))));
  armed const table;
  for (byte_range const range :
       {byte_range{.offset = page, .length = page}, byte_range{.offset = page, .length = 1},
        byte_range{.offset = 1, .length = page}, byte_range{.offset = UINT64_MAX - page + 1, .length = page}}) {
    BOOST_TEST(fails(f.advise(fmmap::advice::dont_fork, range), errc::out_of_range));
  }
  BOOST_TEST(seam::calls().empty());
}

BOOST_AUTO_TEST_CASE(huge_pages_were_unmapped_with_a_length_that_is_not_theirs_and_stayed) {
  auto made = mapping::anonymous(5000, {.page_size = fmmap::page_size::require_huge, .no_reserve = true});
  if (!made) {
    skip("no huge pages: " + made.error().message());
    return;
  }
  BOOST_TEST(mappings_of("anon_hugepage").size() == 1U);
  or_throw(made->close());
  BOOST_TEST(mappings_of("anon_hugepage").empty());
}

BOOST_AUTO_TEST_CASE(the_last_page_of_an_unaligned_mapping_stayed_mapped) {
  scratch const s;
  auto const path = s.file("unaligned", pattern(4 * page));
  for (byte_range const range : {byte_range{.offset = 100, .length = page}, byte_range{.offset = page - 1, .length = 2},
                                 byte_range{.offset = 1, .length = 3 * page}, byte_range{.offset = 2 * page + 5}}) {
    auto f = or_throw(mapped_file::open(path, {.range = range}));
    BOOST_TEST(mappings_of(name_in(s, "unaligned")).size() == 1U);
    or_throw(f.close());
    BOOST_TEST(mappings_of(name_in(s, "unaligned")).empty());
  }
}

BOOST_AUTO_TEST_CASE(a_typed_view_of_what_was_opened_for_reading_was_empty) {
  scratch const s;
  std::vector<std::uint64_t> const numbers{1, 2, 3, UINT64_MAX};
  auto const path = s.file("data", text_of(std::as_bytes(std::span{numbers})));
  auto const holds = [&](fmmap::result<std::span<std::uint64_t const>> const& seen) {
    return seen.has_value() && std::ranges::equal(*seen, numbers);
  };
  BOOST_TEST(holds(or_throw(mapped_file::open(path)).view<std::uint64_t>()));
  BOOST_TEST(holds(or_throw(file_view::open(path)).view<std::uint64_t>()));
  BOOST_TEST(holds(or_throw(file_view::open(path, {.map_above = 0})).view<std::uint64_t>()));
  BOOST_TEST(holds(or_throw(mutable_mapped_file::open_copy_on_write(path)).view<std::uint64_t>()));
}

BOOST_AUTO_TEST_CASE(a_typed_view_of_misaligned_bytes_was_handed_out) {
  scratch const s;
  auto f = or_throw(mutable_mapped_file::open(s.file("data", pattern(64))));
  for (std::uint64_t const offset : {1U, 2U, 3U, 4U, 7U}) {
    BOOST_TEST(fails(f.view<std::uint64_t>(offset, 1), errc::misaligned));
    BOOST_TEST(fails(f.writable_view<std::uint64_t>(offset, 1), errc::misaligned));
    BOOST_TEST(f.read<std::uint64_t>(offset).has_value());
  }
  BOOST_TEST(f.view<std::uint64_t>(8, 1).has_value());
}

BOOST_AUTO_TEST_CASE(zeroing_a_few_bytes_cleared_those_around_them) {
  scratch const s;
  auto expected = pattern(3 * page);
  auto f = or_throw(mutable_mapped_file::open(s.file("data", expected)));
  for (byte_range const range :
       {byte_range{.offset = 10, .length = 10}, byte_range{.offset = page - 3, .length = 7},
        byte_range{.offset = page + 100, .length = page}, byte_range{.offset = 3 * page - 1, .length = 1}}) {
    or_throw(f.zero(range));
    std::ranges::fill(std::span{expected}.subspan(range.offset, range.length), '\0');
  }
  BOOST_TEST((f.text() == expected));
  BOOST_TEST((read_back(s / "data") == expected));
}

BOOST_AUTO_TEST_CASE(what_was_mapped_for_writing_could_not_be_read) {
  scratch const s;
  auto const f = or_throw(mutable_mapped_file::open(s.file("written", pattern(page))));
  auto const lines = mappings_of(name_in(s, "written"));
  BOOST_REQUIRE(lines.size() == 1U);
  BOOST_TEST(lines.front().find(" rw-s ") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(destructors_and_assignments_synced_everything_or_some_of_it_without_a_word) {
  scratch const s;
  auto const path = s.file("data", pattern(64 * page));
  armed const table;
  {
    auto f = or_throw(mutable_mapped_file::open(path));
    std::ranges::fill(f.writable_bytes(), std::byte{1});
    f = or_throw(mutable_mapped_file::open(path));
    std::ranges::fill(f.writable_bytes(), std::byte{2});
    auto const opened = or_throw(file::open(path, {.access = access::read_write}));
    auto m = or_throw(mapping::map(opened, {.access = access::read_write}));
    std::ranges::fill(m.writable_bytes(), std::byte{3});
    m = mapping{};
    or_throw(f.append(bytes_of("tail")));
    or_throw(f.close());
  }
  BOOST_TEST(!any_sync(seam::calls()));
}

BOOST_AUTO_TEST_CASE(a_flush_that_was_not_told_more_did_nothing) {
  scratch const s;
  auto f = or_throw(mutable_mapped_file::open(s.file("data", pattern(4 * page))));
  f.writable_bytes()[5000] = std::byte{1};
  {
    armed const table;
    BOOST_TEST((or_throw(f.flush()) == durability::data));
    BOOST_TEST((seam::calls() == std::vector{call::fdatasync}));
  }
  f.writable_bytes()[5000] = std::byte{2};
  armed const table;
  BOOST_TEST((or_throw(f.flush({.offset = 5000, .length = 100})) == durability::data));
  BOOST_TEST((seam::calls() == std::vector{call::msync}));
}

BOOST_AUTO_TEST_CASE(a_descriptor_of_zero_passed_for_none) {
  scratch const s;
  auto const path = s.file("data", "abc");
  BOOST_TEST(found_in_child([&](findings& found) {
               ::close(0);
               auto f = or_throw(file::open(path));
               found.expect(f.native_handle() == 0, "the descriptor is not 0");
               found.expect(f.is_open() && or_throw(f.size()) == 3, "it passes for closed");
               auto const mapped = or_throw(mapped_file::adopt(std::move(f)));
               found.expect(mapped.is_open() && mapped.text() == "abc", "it cannot be mapped");
             }) == "");
}

BOOST_AUTO_TEST_CASE(an_error_left_from_before_made_an_open_fail) {
  scratch const s;
  auto const path = s.file("data", "abc");
  errno = EIO;
  BOOST_TEST(mapped_file::open(path).has_value());
  errno = ENOENT;
  BOOST_TEST(mutable_mapped_file::open(path).has_value());
  errno = 0;
}

BOOST_AUTO_TEST_SUITE_END()
