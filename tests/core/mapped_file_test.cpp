// SPDX-License-Identifier: MIT OR Apache-2.0

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <expected>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "support/outcome.hpp"
#include "support/process.hpp"
#include "support/scratch.hpp"

import fmmap.core;
import fmmap.os;

using fmmap::access;
using fmmap::byte_range;
using fmmap::errc;
using fmmap::file;
using fmmap::mapped_file;
using fmmap::or_throw;
using fmmap::symlinks;
namespace os = fmmap::os;
namespace seam = fmmap::os::seam;
using seam::armed;

static_assert(!std::is_copy_constructible_v<mapped_file>);
static_assert(std::is_nothrow_default_constructible_v<mapped_file>);
static_assert(std::is_nothrow_move_constructible_v<mapped_file>);
static_assert(std::is_nothrow_move_assignable_v<mapped_file>);
static_assert(std::is_same_v<decltype(std::declval<mapped_file&>().bytes()), std::span<std::byte const>>);
static_assert(std::is_same_v<decltype(std::declval<mapped_file&>().as_file()), file const&>);
static_assert(std::is_same_v<decltype(std::declval<mapped_file&>().as_mapping()), fmmap::mapping const&>);

namespace {

constexpr std::size_t page = 4096;

auto read(mapped_file const& from, std::uint64_t offset, std::size_t length) -> std::string {
  std::vector<std::byte> out(length);
  return std::string{text_of(std::span{out}.first(from.read_at(offset, out)))};
}

} // namespace

BOOST_AUTO_TEST_SUITE(opening_a_mapped_file)

BOOST_AUTO_TEST_CASE(shows_the_whole_file) {
  scratch const s;
  for (auto const size : {std::size_t{1}, page - 1, page, page + 1, 10 * page + 17}) {
    auto const content = pattern(size);
    auto const f = or_throw(mapped_file::open(s.file("f", content)));
    BOOST_TEST(f.size() == size);
    BOOST_TEST((text_of(f.bytes()) == content));
  }
}

BOOST_AUTO_TEST_CASE(of_an_empty_file_is_an_empty_span_and_every_function_works) {
  scratch const s;
  auto const path = s.file("f", "");
  for (bool const populate : {false, true}) {
    auto f = or_throw(mapped_file::open(path, {.populate = populate}));
    BOOST_TEST(f.bytes().empty());
    BOOST_TEST(f.size() == 0U);
    BOOST_TEST(or_throw(f.bytes(0, 0)).empty());
    BOOST_TEST(fails(f.bytes(0, 1), errc::out_of_range));
    BOOST_TEST(fails(f.bytes(1, 0), errc::out_of_range));
    BOOST_TEST(read(f, 0, 10) == "");
    BOOST_TEST(or_throw(f.metadata()).size == 0U);
    BOOST_TEST(or_throw(f.as_file().size()) == 0U);
    BOOST_TEST(f.as_mapping().is_open());
    or_throw(f.close());
  }
  BOOST_TEST(or_throw(mapped_file::open(path, {.range = {.offset = 0, .length = 0}})).bytes().empty());
  BOOST_TEST(fails(mapped_file::open(path, {.range = {.offset = 0, .length = 1}}), errc::out_of_range));
  BOOST_TEST(fails(mapped_file::open(path, {.range = {.offset = 1}}), errc::out_of_range));
}

BOOST_AUTO_TEST_CASE(with_a_range_shows_the_range_and_counts_from_its_start) {
  scratch const s;
  auto const content = pattern(3 * page + 5);
  auto const path = s.file("f", content);
  for (auto const offset : {std::size_t{0}, std::size_t{1}, page - 1, page, 2 * page + 3}) {
    for (auto const length : {std::size_t{1}, page, fmmap::to_end}) {
      auto const f = or_throw(mapped_file::open(path, {.range = {.offset = offset, .length = length}}));
      auto const expected = std::string_view{content}.substr(offset, length);
      BOOST_TEST((text_of(f.bytes()) == expected));
      BOOST_TEST(f.size() == expected.size());
      BOOST_TEST(f.as_mapping().file_offset() == offset);
      BOOST_TEST((text_of(or_throw(f.bytes(0, 1))) == expected.substr(0, 1)));
      BOOST_TEST(fails(f.bytes(0, expected.size() + 1), errc::out_of_range)); // the file goes on, the range does not
      BOOST_TEST((read(f, expected.size() - 1, 100) == expected.substr(expected.size() - 1)));
    }
  }
}

BOOST_AUTO_TEST_CASE(takes_empty_ranges_up_to_the_end_of_the_file_and_nothing_past_it) {
  scratch const s;
  auto const path = s.file("f", pattern(page + 100));
  for (auto const offset : {std::uint64_t{0}, std::uint64_t{50}, std::uint64_t{page}, std::uint64_t{page + 100}}) {
    auto const f = or_throw(mapped_file::open(path, {.range = {.offset = offset, .length = 0}}));
    BOOST_TEST(f.bytes().empty());
    BOOST_TEST(or_throw(f.bytes(0, 0)).empty());
    BOOST_TEST(fails(f.bytes(0, 1), errc::out_of_range));
    BOOST_TEST(read(f, 0, 1) == "");
  }
  BOOST_TEST(or_throw(mapped_file::open(path, {.range = {.offset = page + 100}})).bytes().empty());
  for (auto const& range :
       {byte_range{.offset = page + 101}, byte_range{.offset = page + 101, .length = 0},
        byte_range{.offset = page + 99, .length = 2}, byte_range{.offset = 0, .length = page + 101},
        byte_range{.offset = std::uint64_t{1} << 63}, byte_range{.offset = UINT64_MAX, .length = 0},
        byte_range{.offset = UINT64_MAX}, byte_range{.offset = UINT64_MAX, .length = 1},
        byte_range{.offset = UINT64_MAX - 1, .length = 100}, byte_range{.offset = 100, .length = SIZE_MAX - 1},
        byte_range{.offset = 2, .length = SIZE_MAX - 1}, byte_range{.offset = UINT64_MAX - page + 1, .length = page}}) {
    auto const f = mapped_file::open(path, {.range = range});
    BOOST_TEST_CONTEXT(range.offset << " and " << range.length) {
      BOOST_REQUIRE(fails(f, errc::out_of_range));
      BOOST_TEST((f.error().range() == range));
      BOOST_TEST(f.error().path() == path.native());
    }
  }
}

BOOST_AUTO_TEST_CASE(sees_past_4_gib_of_a_sparse_file) {
  scratch const s;
  auto const far = (std::uint64_t{5} << 30) + 1234;
  {
    auto sparse = or_throw(file::create_new(s / "f"));
    or_throw(sparse.write_at(far, bytes_of("far away")));
    or_throw(sparse.write_at(far - (std::uint64_t{1} << 32), bytes_of("not here"))); // where 32 bits would look
  }
  auto const all = or_throw(mapped_file::open(s / "f"));
  BOOST_TEST(all.size() == far + 8);
  BOOST_TEST(text_of(or_throw(all.bytes(far, 8))) == "far away");
  BOOST_TEST(read(all, far + 4, 100) == "away");
  BOOST_TEST(fails(all.bytes(far, 9), errc::out_of_range));
  auto const part = or_throw(mapped_file::open(s / "f", {.range = {.offset = far + 4}}));
  BOOST_TEST(text_of(part.bytes()) == "away");
}

BOOST_AUTO_TEST_CASE(brings_the_pages_in_when_asked_to) {
  scratch const s;
  auto const path = s.file("f", pattern(16 * page));
  auto const f = or_throw(mapped_file::open(path, {.populate = true}));
  BOOST_TEST(or_throw(f.as_mapping().residency()).resident_bytes == 16 * page);
  armed const table;
  seam::fail(os::call::madvise, EFAULT);
  BOOST_TEST(fails(mapped_file::open(path, {.populate = true}), std::errc::bad_address));
  BOOST_TEST(mapped_file::open(path).has_value());
}

BOOST_AUTO_TEST_CASE(refuses_huge_pages_that_it_cannot_have) {
  scratch const s;
  auto const path = s.file("f", pattern(page));
  BOOST_TEST(
      fails(mapped_file::open(path, {.page_size = fmmap::page_size::require_huge}), std::errc::invalid_argument));
  auto const f = or_throw(mapped_file::open(path, {.page_size = fmmap::page_size::prefer_huge}));
  BOOST_TEST((text_of(f.bytes()) == pattern(page)));
}

BOOST_AUTO_TEST_CASE(takes_names_of_255_bytes_and_refuses_longer_ones_and_those_with_nul) {
  scratch const s;
  auto const longest = std::string(255, 'n');
  BOOST_TEST(text_of(or_throw(mapped_file::open(s.file(longest, "abc"))).bytes()) == "abc");
  auto const too_long = s / std::string(256, 'n');
  auto const refused = mapped_file::open(too_long);
  BOOST_REQUIRE(fails(refused, std::errc::filename_too_long));
  BOOST_TEST(refused.error().path() == too_long.native());
  (void)s.file("a", "what the name before the NUL leads to");
  BOOST_TEST(fails(mapped_file::open(s / std::string_view{"a\0b", 3}), std::errc::invalid_argument));
  BOOST_TEST(fails(mapped_file::open(s / std::string_view{"a\0", 2}), std::errc::invalid_argument));
  BOOST_TEST(fails(mapped_file::open(""), std::errc::no_such_file_or_directory));
}

BOOST_AUTO_TEST_CASE(refuses_what_is_not_a_regular_file_without_blocking) {
  scratch const s;
  BOOST_REQUIRE(::mkfifo((s / "fifo").c_str(), 0600) == 0);
  for (auto const& path : {s / "fifo", s.folder(), std::filesystem::path{"/dev/zero"}}) {
    auto const f = mapped_file::open(path);
    BOOST_TEST_CONTEXT(path) {
      BOOST_REQUIRE(fails(f, errc::not_a_regular_file));
      BOOST_TEST(f.error().path() == path.native());
    }
  }
}

BOOST_AUTO_TEST_CASE(never_makes_a_terminal_the_controlling_one) {
  BOOST_TEST(found_in_child([](findings& found) {
               // Without a controlling terminal the leader of a session is given the first one that it opens.
               found.expect(::setsid() > 0, "no session");
               auto const terminal = ::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
               std::array<char, 100> name{};
               if (terminal < 0 || ::grantpt(terminal) != 0 || ::unlockpt(terminal) != 0 ||
                   ::ptsname_r(terminal, name.data(), name.size()) != 0) {
                 found.skip(std::string{"no pseudoterminal: "} + std::strerror(errno));
                 return;
               }
               auto const has_none = [] {
                 auto const own = ::open("/dev/tty", O_RDWR | O_CLOEXEC);
                 return own < 0 && errno == ENXIO;
               };
               if (!has_none()) {
                 found.skip("there is no /dev/tty that tells of a controlling terminal");
                 return;
               }
               std::filesystem::path const path{name.data()};
               for (auto const wanted : {access::read_only, access::read_write}) {
                 auto const opened = file::open(path, {.access = wanted, .any_type = true});
                 found.expect(opened.has_value(), "the terminal cannot be opened");
                 found.expect(has_none(), "file::open");
                 found.expect(fails(file::open(path, {.access = wanted}), errc::not_a_regular_file), "a regular file");
                 found.expect(has_none(), "file::open of a regular file");
               }
               found.expect(fails(mapped_file::open(path), errc::not_a_regular_file), "a mapped file");
               found.expect(has_none(), "mapped_file::open");
               found.expect(fails(fmmap::mutable_mapped_file::open(path), errc::not_a_regular_file), "a mutable one");
               found.expect(has_none(), "mutable_mapped_file::open");
               // What this test can see: the same open without the flag.
               auto const plain = ::open(name.data(), O_RDWR | O_CLOEXEC);
               found.expect(plain >= 0 && !has_none(), "a plain open does not give a controlling terminal either");
               ::signal(SIGHUP, SIG_IGN);
             }) == "");
}

BOOST_AUTO_TEST_CASE(follows_links_unless_they_are_refused) {
  scratch const s;
  std::filesystem::create_directory(s / "folder");
  (void)s.file("folder/f", "abc");
  std::filesystem::create_symlink("folder/f", s / "link");
  std::filesystem::create_directory_symlink("folder", s / "linked_folder");
  std::filesystem::create_symlink("nowhere", s / "dangling");
  auto const open = [&](std::string_view name, symlinks how) { return mapped_file::open(s / name, {.symlinks = how}); };

  BOOST_TEST(text_of(or_throw(open("link", symlinks::follow)).bytes()) == "abc");
  BOOST_TEST(text_of(or_throw(open("linked_folder/f", symlinks::follow)).bytes()) == "abc");
  BOOST_TEST(fails(open("dangling", symlinks::follow), std::errc::no_such_file_or_directory));

  BOOST_TEST(fails(open("link", symlinks::refuse_last), errc::symbolic_link));
  BOOST_TEST(fails(open("dangling", symlinks::refuse_last), errc::symbolic_link));
  BOOST_TEST(text_of(or_throw(open("linked_folder/f", symlinks::refuse_last)).bytes()) == "abc");

  auto plain =
      mapped_file::open(std::filesystem::canonical(s.folder()) / "folder/f", {.symlinks = symlinks::refuse_all});
  if (fails(plain, std::errc::function_not_supported)) {
    skip("the system has no openat2");
    return;
  }
  BOOST_TEST(text_of(or_throw(std::move(plain)).bytes()) == "abc");
  for (auto const* const name : {"link", "linked_folder/f", "dangling"}) {
    auto const f = mapped_file::open(std::filesystem::canonical(s.folder()) / name, {.symlinks = symlinks::refuse_all});
    BOOST_TEST_CONTEXT(name) { BOOST_TEST(fails(f, errc::symbolic_link)); }
  }
}

BOOST_AUTO_TEST_CASE(needs_the_permission_to_read_and_nothing_more) {
  scratch const s;
  BOOST_TEST(found_in_child([&](findings& found) {
               std::filesystem::permissions(s.folder(), std::filesystem::perms::all);
               std::filesystem::permissions(s.file("secret", "abc"), std::filesystem::perms::none);
               std::filesystem::permissions(s.file("public", "abc"),
                                            std::filesystem::perms{0444}); // not even the owner may write
               std::filesystem::current_path(s.folder());                  // the way here may be closed to others
               found.expect(!is_root() || become_ordinary_user(), "root cannot be given up");
               auto const refused = mapped_file::open("secret");
               found.expect(fails(refused, std::errc::permission_denied), "a file without permissions was opened");
               found.expect(!refused && refused.error().path() == "secret", "the error does not name the path");
               found.expect(!refused && refused.error().operation() == "open", "the error does not say what failed");
               found.expect(text_of(or_throw(mapped_file::open("public")).bytes()) == "abc", "the wrong bytes");
             }) == "");
}

BOOST_AUTO_TEST_CASE(names_the_path_as_it_was_given) {
  scratch const s;
  auto const missing = mapped_file::open(s / "missing");
  BOOST_REQUIRE(fails(missing, std::errc::no_such_file_or_directory));
  BOOST_TEST(missing.error().path() == (s / "missing").native());
  BOOST_TEST(missing.error().operation() == "open");
  BOOST_TEST(missing.error().message().find((s / "missing").native()) != std::string::npos);
  auto const path = s.file("f", "abc");
  auto const through_file = mapped_file::open(path / "below");
  BOOST_REQUIRE(fails(through_file, std::errc::not_a_directory));
  BOOST_TEST(through_file.error().path() == (path / "below").native());
}

BOOST_AUTO_TEST_CASE(leaves_no_descriptor_and_no_mapping_when_it_fails_at_any_call) {
  scratch const s;
  auto const path = std::filesystem::canonical(s.file("f", pattern(10 * page))); // as the system names it
  auto const mappings = [&] {
    std::ifstream maps{"/proc/self/maps"};
    std::size_t count = 0;
    for (std::string line; std::getline(maps, line);) {
      count += line.ends_with(path.native()) ? 1 : 0;
    }
    return count;
  };
  {
    auto const f = or_throw(mapped_file::open(path, {.populate = true}));
    BOOST_REQUIRE(mappings() == 1U);
  }
  auto const before = descriptor_count();
  for (std::uint64_t n = 1;; ++n) {
    bool opened = false;
    bool injected = false;
    {
      armed const table;
      seam::fail_nth(n, EIO);
      opened = mapped_file::open(path, {.populate = true}).has_value();
      injected = seam::injected() > 0;
    }
    BOOST_TEST_CONTEXT("call " << n) {
      BOOST_TEST(descriptor_count() == before);
      BOOST_TEST(mappings() <= 1U); // that of the unmap that was not made
    }
    if (!injected) {
      BOOST_TEST(opened);
      BOOST_TEST(n > 4U);
      break;
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(a_mapped_file)

BOOST_AUTO_TEST_CASE(checks_ranges_it_is_asked_for) {
  scratch const s;
  auto const f = or_throw(mapped_file::open(s.file("f", "0123456789")));
  BOOST_TEST(text_of(or_throw(f.bytes(3, 4))) == "3456");
  BOOST_TEST((or_throw(f.bytes(3, 4)).data() == f.bytes().data() + 3));
  BOOST_TEST(text_of(or_throw(f.bytes(0, 10))) == "0123456789");
  BOOST_TEST(or_throw(f.bytes(10, 0)).empty());
  BOOST_TEST(or_throw(f.bytes(5, 0)).empty());
  for (auto const& [offset, length] :
       std::array{std::pair{std::uint64_t{3}, std::size_t{8}}, std::pair{std::uint64_t{11}, std::size_t{0}},
                  std::pair{std::uint64_t{10}, std::size_t{1}}, std::pair{std::uint64_t{UINT64_MAX}, std::size_t{2}},
                  std::pair{std::uint64_t{UINT64_MAX}, std::size_t{0}}, std::pair{std::uint64_t{5}, SIZE_MAX - 3},
                  std::pair{std::uint64_t{1} << 32, std::size_t{1}}}) {
    auto const refused = f.bytes(offset, length);
    BOOST_TEST_CONTEXT(offset << " and " << length) {
      BOOST_REQUIRE(fails(refused, errc::out_of_range));
      BOOST_TEST((refused.error().range() == byte_range{.offset = offset, .length = length}));
      BOOST_TEST(refused.error().path() == (s / "f").native());
    }
  }
}

BOOST_AUTO_TEST_CASE(reads_up_to_its_end) {
  scratch const s;
  auto const f = or_throw(mapped_file::open(s.file("f", "0123456789")));
  BOOST_TEST(read(f, 0, 10) == "0123456789");
  BOOST_TEST(read(f, 0, 100) == "0123456789");
  BOOST_TEST(read(f, 8, 4) == "89");
  BOOST_TEST(read(f, 9, 1) == "9");
  BOOST_TEST(read(f, 10, 1) == "");
  BOOST_TEST(read(f, 11, 1) == "");
  BOOST_TEST(read(f, std::uint64_t{1} << 32, 1) == "");
  BOOST_TEST(read(f, UINT64_MAX, 10) == "");
  BOOST_TEST(read(f, 5, 0) == "");
  BOOST_TEST(f.read_at(0, {}) == 0U);
  std::array<std::byte, 4> out{std::byte{'-'}, std::byte{'-'}, std::byte{'-'}, std::byte{'-'}};
  BOOST_TEST(f.read_at(8, out) == 2U);
  BOOST_TEST(text_of(out) == "89--"); // what lies past the end is left alone
}

BOOST_AUTO_TEST_CASE(knows_the_file_it_is_of) {
  scratch const s;
  auto const path = s.file("f", "0123456789");
  auto const f = or_throw(mapped_file::open(path));
  struct stat status{};
  BOOST_REQUIRE(::stat(path.c_str(), &status) == 0);
  BOOST_TEST(f.path() == path.native());
  BOOST_TEST(f.identity().inode == status.st_ino);
  BOOST_TEST((f.identity() == or_throw(file::open(path)).identity()));
  BOOST_TEST((f.identity() != or_throw(mapped_file::open(s.file("g", "0123456789"))).identity()));
  auto const metadata = or_throw(f.metadata());
  BOOST_TEST(metadata.size == 10U);
  BOOST_TEST(metadata.links == 1U);
  BOOST_TEST((metadata.type == fmmap::file_type::regular));
  BOOST_TEST((metadata.identity == f.identity()));
}

BOOST_AUTO_TEST_CASE(gives_access_to_its_layers) {
  scratch const s;
  auto const f = or_throw(mapped_file::open(s.file("f", pattern(2 * page)), {.range = {.offset = 100}}));
  BOOST_TEST(or_throw(f.as_file().size()) == 2 * page);
  BOOST_TEST((f.as_file().access() == access::read_only));
  BOOST_TEST((f.as_file().identity() == f.identity()));
  BOOST_TEST((f.as_mapping().bytes().data() == f.bytes().data()));
  BOOST_TEST((f.as_mapping().access() == access::read_only));
  BOOST_TEST(!f.as_mapping().is_executable());
  or_throw(f.as_mapping().advise(fmmap::advice::sequential));
  auto const held = or_throw(f.as_mapping().lock_memory({.offset = 0, .length = 1}));
  BOOST_TEST(held.bytes().size() == page);
}

BOOST_AUTO_TEST_CASE(cannot_be_written) {
  scratch const s;
  auto const f = or_throw(mapped_file::open(s.file("f", "abc")));
  auto* const first = reinterpret_cast<std::byte volatile*>(reinterpret_cast<std::uintptr_t>(f.bytes().data()));
  BOOST_TEST(dies_of(SIGSEGV, [&] { *first = std::byte{'X'}; }));
  BOOST_TEST(read_back(s / "f") == "abc");
}

BOOST_AUTO_TEST_CASE(stays_readable_when_the_file_is_renamed_or_removed) {
  scratch const s;
  auto const f = or_throw(mapped_file::open(s.file("f", "abc")));
  std::filesystem::rename(s / "f", s / "g");
  BOOST_TEST(text_of(f.bytes()) == "abc");
  BOOST_TEST(f.path() == (s / "f").native());
  std::filesystem::remove(s / "g");
  BOOST_TEST(text_of(f.bytes()) == "abc");
  BOOST_TEST(or_throw(f.metadata()).links == 0U);
}

BOOST_AUTO_TEST_CASE(keeps_its_address_and_its_file_when_it_is_moved) {
  scratch const s;
  auto const before = descriptor_count();
  auto first = or_throw(mapped_file::open(s.file("f", "abc"), {.range = {.offset = 1}}));
  auto const* const data = first.bytes().data();
  auto second = std::move(first);
  BOOST_TEST((second.bytes().data() == data));
  BOOST_TEST(text_of(second.bytes()) == "bc");
  BOOST_TEST(second.path() == (s / "f").native());
  BOOST_TEST(second.as_mapping().file_offset() == 1U);

  auto third = or_throw(mapped_file::open(s.file("g", "other")));
  BOOST_TEST(descriptor_count() == before + 2);
  third = std::move(second);
  BOOST_TEST(descriptor_count() == before + 1); // that of what it was assigned over is closed
  BOOST_TEST((third.bytes().data() == data));
  BOOST_TEST(third.path() == (s / "f").native());

  auto& itself = third;
  third = std::move(itself);
  BOOST_TEST((third.bytes().data() == data));
  BOOST_TEST(text_of(third.bytes()) == "bc");
  BOOST_TEST(third.path() == (s / "f").native());

  first = std::move(third); // one that was moved from can be assigned to
  BOOST_TEST((first.bytes().data() == data));
  or_throw(first.close());
  BOOST_TEST(descriptor_count() == before);
}

BOOST_AUTO_TEST_CASE(says_closed_after_close_and_after_a_move) {
  scratch const s;
  auto from = or_throw(mapped_file::open(s.file("f", "abc")));
  auto f = std::move(from);
  auto const check = [](mapped_file& gone) {
    std::array<std::byte, 1> out{};
    BOOST_TEST(gone.bytes().empty());
    BOOST_TEST(gone.size() == 0U);
    BOOST_TEST(gone.path().empty());
    BOOST_TEST((gone.identity() == fmmap::file_identity{}));
    BOOST_TEST(gone.read_at(0, out) == 0U);
    BOOST_TEST(fails(gone.bytes(0, 0), errc::closed));
    BOOST_TEST(fails(gone.metadata(), errc::closed));
    BOOST_TEST(!gone.as_file().is_open());
    BOOST_TEST(!gone.as_mapping().is_open());
    BOOST_TEST(fails(gone.close(), errc::closed));
    BOOST_TEST(fails(gone.close(), errc::closed));
  };
  check(from);
  or_throw(f.close());
  check(f);
}

BOOST_AUTO_TEST_CASE(reports_a_close_that_fails_and_is_closed_all_the_same) {
  scratch const s;
  for (auto const failing : {os::call::munmap, os::call::close}) {
    auto f = or_throw(mapped_file::open(s.file("f", "abc")));
    armed const table;
    seam::fail(failing, EIO, 1);
    BOOST_TEST(fails(f.close(), std::errc::io_error));
    BOOST_TEST(fails(f.close(), errc::closed));
    auto const calls = seam::calls();
    BOOST_TEST((std::ranges::count(calls, os::call::close) == 1));
    BOOST_TEST((std::ranges::count(calls, os::call::munmap) == 1));
  }
}

BOOST_AUTO_TEST_CASE(shared_parts_of_it_outlive_it) {
  scratch const s;
  std::optional f{or_throw(mapped_file::open(s.file("f", "0123456789")))};
  auto const kept = or_throw(f->as_mapping().share({.offset = 2, .length = 3}));
  or_throw(f->close());
  BOOST_TEST(text_of(kept.bytes()) == "234");
  f.reset();
  BOOST_TEST(text_of(kept.bytes()) == "234");
}

BOOST_AUTO_TEST_SUITE_END()
