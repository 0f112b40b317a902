// SPDX-License-Identifier: MIT OR Apache-2.0

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cinttypes>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <expected>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>

#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/machine_code.hpp"
#include "support/mounts.hpp"
#include "support/outcome.hpp"
#include "support/process.hpp"
#include "support/scratch.hpp"

import fmmap.core;
import fmmap.os;

using fmmap::access;
using fmmap::byte_range;
using fmmap::errc;
using fmmap::file;
using fmmap::mapping;
using fmmap::or_throw;
namespace seam = fmmap::os::seam;
using seam::armed;

static_assert(!std::is_copy_constructible_v<mapping>);
static_assert(std::is_nothrow_move_constructible_v<mapping>);
static_assert(std::is_nothrow_move_assignable_v<mapping>);
static_assert(std::is_same_v<decltype(std::declval<mapping const&>().bytes()), std::span<std::byte const>>);
static_assert(std::is_same_v<decltype(std::declval<mapping&>().writable_bytes()), std::span<std::byte>>);

namespace {

constexpr std::size_t page = 4096;
constexpr std::size_t huge = std::size_t{2} << 20;
constexpr std::size_t gibibyte = std::size_t{1} << 30;

auto open_rw(std::filesystem::path const& path) -> file {
  return or_throw(file::open(path, {.access = access::read_write}));
}

auto address_of(std::byte const* p) -> std::uintptr_t { return reinterpret_cast<std::uintptr_t>(p); }

// Whether the file has pages that are not yet written; one on tmpfs never does.
auto counts_dirty_pages(file const& of) -> bool {
  struct statfs system{};
  return ::fstatfs(of.native_handle(), &system) == 0 && system.f_type != TMPFS_MAGIC;
}

// Whether the system's flags of the memory at `p`, as /proc/self/smaps has them, hold this one.
auto has_vm_flag(std::byte const* p, std::string_view flag) -> bool {
  std::ifstream smaps{"/proc/self/smaps"};
  bool here = false;
  for (std::string line; std::getline(smaps, line);) {
    std::uintptr_t begin = 0;
    std::uintptr_t end = 0;
    if (std::sscanf(line.c_str(), "%" SCNxPTR "-%" SCNxPTR " ", &begin, &end) == 2) {
      here = begin <= address_of(p) && address_of(p) < end;
    } else if (here && line.starts_with("VmFlags:")) {
      return (line + ' ').find(' ' + std::string{flag} + ' ') != std::string::npos;
    }
  }
  throw std::runtime_error("no flags of this address");
}

} // namespace

BOOST_AUTO_TEST_SUITE(mapping_map)

// access x offset x length x file size: what is mapped, what can be written, where it goes.
BOOST_AUTO_TEST_CASE(every_access_offset_length_and_file_size_maps_exactly_the_bytes_asked_for) {
  scratch const s;
  std::array const sizes{std::size_t{0}, std::size_t{1}, page - 1, page, page + 1, 3 * page, 5 * page + 17};
  std::array const offsets{std::uint64_t{0}, std::uint64_t{1}, page - 1UL,     page * 1UL,
                           page + 1UL,       3 * page + 0UL,   5 * page + 17UL};
  std::array const lengths{std::size_t{0}, std::size_t{1}, page - 1, page, page + 1, 2 * page, fmmap::to_end};
  std::size_t cases = 0;
  for (auto const size : sizes) {
    for (auto const wanted : {access::read_only, access::read_write, access::copy_on_write}) {
      for (auto const offset : offsets) {
        for (auto const length : lengths) {
          for (std::size_t const reserve : {std::size_t{0}, 8 * page}) {
            ++cases;
            auto const content = pattern(size);
            auto const path = s.file("data", content);
            auto const f = open_rw(path);
            auto m =
                mapping::map(f, {.access = wanted, .range = {.offset = offset, .length = length}, .reserve = reserve});
            BOOST_TEST_CONTEXT("size " << size << " access " << static_cast<int>(wanted) << " offset " << offset
                                       << " length " << length << " reserve " << reserve) {
              auto const valid = offset <= size && (length == fmmap::to_end || length <= size - offset);
              BOOST_REQUIRE(m.has_value() == valid);
              if (!valid) {
                BOOST_TEST((m.error() == errc::out_of_range));
                BOOST_TEST((m.error().range() == byte_range{.offset = offset, .length = length}));
                continue;
              }
              auto const count = length == fmmap::to_end ? size - offset : length;
              BOOST_REQUIRE(m->size() == count);
              BOOST_TEST((text_of(m->bytes()) == std::string_view{content}.substr(offset, count)));
              BOOST_TEST(m->file_offset() == offset);
              BOOST_TEST(m->capacity() >= reserve);
              BOOST_TEST(m->writable_bytes().size() == (wanted == access::read_only ? 0 : count));
              if (wanted == access::read_only || count == 0) {
                continue;
              }
              m->writable_bytes().front() = std::byte{'!'};
              m->writable_bytes().back() = std::byte{'!'};
              auto expected = content;
              if (wanted == access::read_write) {
                expected[offset] = '!';
                expected[offset + count - 1] = '!';
              }
              BOOST_TEST((read_back(path) == expected));
            }
          }
        }
      }
    }
  }
  BOOST_TEST(cases == 7U * 3 * 7 * 7 * 2);
}

BOOST_AUTO_TEST_CASE(numbers_at_the_edge_of_their_type_are_errors_and_never_wrap) {
  scratch const s;
  auto const f = open_rw(s.file("data", pattern(100)));
  for (auto const offset : {std::uint64_t{101}, std::uint64_t{1} << 63, UINT64_MAX - 4095, UINT64_MAX}) {
    for (auto const length : {std::size_t{0}, std::size_t{1}, SIZE_MAX - 1, SIZE_MAX}) {
      auto const m = mapping::map(f, {.range = {.offset = offset, .length = length}});
      BOOST_REQUIRE(!m);
      BOOST_TEST((m.error() == errc::out_of_range));
    }
  }
  for (auto const reserve : {SIZE_MAX, SIZE_MAX - 4095, std::size_t{1} << 63, std::size_t{1} << 47}) {
    auto const m = mapping::map(f, {.reserve = reserve});
    BOOST_REQUIRE(!m);
    BOOST_TEST((m.error() == std::errc::not_enough_memory));
  }
  for (auto const size : {SIZE_MAX, SIZE_MAX - 4095, std::size_t{1} << 63, std::size_t{1} << 48}) {
    auto const m = mapping::anonymous(size);
    BOOST_REQUIRE(!m);
    BOOST_TEST((m.error() == std::errc::not_enough_memory));
  }
}

BOOST_AUTO_TEST_CASE(ranges_past_4_gib_of_a_sparse_file_map_and_write_where_they_should) {
  scratch const s;
  auto f = or_throw(file::create_new(s / "sparse"));
  auto const far = (std::uint64_t{5} << 30) + 123;
  auto const near = far - (std::uint64_t{1} << 32); // where numbers of 32 bits would lead
  auto const content = pattern(5 * page);
  or_throw(f.write_at(near, bytes_of(content)));
  or_throw(f.write_at(far, bytes_of(content)));
  auto const at = [&](std::uint64_t offset) {
    std::string bytes(content.size(), '\0');
    BOOST_TEST(or_throw(f.read_at(offset, std::as_writable_bytes(std::span{bytes}))) == content.size());
    return bytes;
  };

  auto m =
      or_throw(mapping::map(f, {.access = access::read_write, .range = {.offset = far, .length = content.size()}}));
  BOOST_TEST((text_of(m.bytes()) == content));
  m.writable_bytes()[999] = std::byte{7};
  auto expected = content;
  expected[999] = 7;
  BOOST_TEST((at(far) == expected));
  BOOST_TEST((or_throw(m.flush({.offset = 990, .length = 10})) == fmmap::durability::data));
  BOOST_TEST((or_throw(m.flush(fmmap::whole, fmmap::durability::written)) == fmmap::durability::written));
  BOOST_TEST((or_throw(or_throw(m.stage_flush({.offset = 990, .length = 10})).run()) == fmmap::durability::data));
  BOOST_TEST((or_throw(m.rewrite({.offset = page, .length = page})) == fmmap::durability::data));
  or_throw(m.advise(fmmap::advice::will_need));
  {
    auto const held = or_throw(m.lock_memory({.offset = page, .length = page}));
    BOOST_TEST((held.bytes().data() == m.bytes().data() + page - 123));
    BOOST_TEST(or_throw(m.residency({.offset = page, .length = page})).resident_bytes == 2 * page);
  }
  or_throw(m.flush());
  m.writable_bytes()[3 * page] = std::byte{7};
  expected[3 * page] = 7;
  if (auto const found = or_throw(m.residency()); found.dirty_known && counts_dirty_pages(f)) {
    BOOST_TEST(found.dirty_bytes > 0U);
  }
  or_throw(m.flush({.offset = 3 * page, .length = 1}));
  if (auto const found = or_throw(m.residency()); found.dirty_known) {
    BOOST_TEST(found.dirty_bytes == 0U);
  }

  or_throw(m.discard({.offset = page, .length = 3 * page})); // two of its pages are wholly inside
  std::fill_n(expected.begin() + 2 * page - 123, 2 * page, '\0');
  BOOST_TEST((text_of(m.bytes()) == expected));
  BOOST_TEST((at(far) == expected));
  BOOST_TEST((at(near) == content));
}

BOOST_AUTO_TEST_CASE(one_mapping_of_more_than_4_gib_reaches_every_part_of_it) {
  scratch const s;
  auto f = or_throw(file::create_new(s / "sparse"));
  auto const far = (std::uint64_t{1} << 32) + 2 * page;
  auto const content = pattern(4 * page);
  or_throw(f.write_at(2 * page, bytes_of(content)));
  or_throw(f.write_at(far, bytes_of(content)));
  auto m = or_throw(mapping::map(f, {.access = access::read_write}));
  BOOST_TEST((text_of(or_throw(m.bytes({.offset = far, .length = 4 * page}))) == content));
  BOOST_TEST((text_of(or_throw(m.share({.offset = far + 5})).bytes()) == std::string_view{content}.substr(5)));
  auto const held = or_throw(m.lock_memory({.offset = far + page, .length = page}));
  BOOST_TEST((held.bytes().data() == m.bytes().data() + far + page));
  BOOST_TEST(or_throw(m.residency({.offset = far, .length = 4 * page})).resident_bytes == 4 * page);
  or_throw(m.discard({.offset = far + page, .length = 2 * page}));
  auto expected = content;
  std::fill_n(expected.begin() + page, 2 * page, '\0');
  BOOST_TEST((text_of(m.bytes().subspan(far, 4 * page)) == expected));
  BOOST_TEST((text_of(m.bytes().subspan(2 * page, 4 * page)) == content));
  m.writable_bytes()[far] = std::byte{7};
  BOOST_TEST((or_throw(m.rewrite({.offset = far, .length = 1})) == fmmap::durability::data));
  BOOST_TEST((or_throw(or_throw(m.stage_flush({.offset = far, .length = 1})).run()) == fmmap::durability::data));
  or_throw(m.resize(far + 1));
  BOOST_TEST(m.bytes().size() == far + 1);
  BOOST_TEST((m.bytes().back() == std::byte{7}));
}

BOOST_AUTO_TEST_CASE(a_file_opened_for_reading_maps_copy_on_write_but_not_for_writing) {
  scratch const s;
  auto const path = s.file("data", "content");
  auto const f = or_throw(file::open(path));
  auto const refused = mapping::map(f, {.access = access::read_write});
  BOOST_REQUIRE(!refused);
  BOOST_TEST((refused.error() == errc::read_only));
  auto cow = or_throw(mapping::map(f, {.access = access::copy_on_write}));
  cow.writable_bytes()[0] = std::byte{'X'};
  BOOST_TEST(text_of(cow.bytes()) == "Xontent");
  BOOST_TEST(read_back(path) == "content");
}

BOOST_AUTO_TEST_CASE(writable_and_executable_at_once_is_refused) {
  scratch const s;
  auto const f = open_rw(s.file("data", "content"));
  for (auto const wanted : {access::read_write, access::copy_on_write}) {
    auto const m = mapping::map(f, {.access = wanted, .executable = true});
    BOOST_REQUIRE(!m);
    BOOST_TEST((m.error() == errc::writable_and_executable));
  }
}

BOOST_AUTO_TEST_CASE(an_executable_mapping_runs) {
  if (returns_42().empty()) {
    skip("there is no code for this processor");
    return;
  }
  scratch const s;
  auto const f = or_throw(file::open(s.file("code", returns_42())));
  auto const m = or_throw(mapping::map(f, {.executable = true}));
  BOOST_TEST(called(m.bytes()) == 42);
}

BOOST_AUTO_TEST_CASE(a_fixed_address_is_taken_exactly_and_never_over_another_mapping) {
  scratch const s;
  auto const f = open_rw(s.file("data", pattern(3 * page)));
  auto spare = or_throw(mapping::anonymous(64 * huge, {.no_reserve = true}));
  auto* const inside = spare.writable_bytes().data() + 32 * huge;
  auto const taken = mapping::map(f, {.address = inside});
  BOOST_REQUIRE(!taken);
  BOOST_TEST((taken.error() == errc::address_in_use));
  auto const taken_anonymous = mapping::anonymous(page, {.address = inside});
  BOOST_REQUIRE(!taken_anonymous);
  BOOST_TEST((taken_anonymous.error() == errc::address_in_use));

  or_throw(spare.close());
  auto const placed = or_throw(mapping::map(f, {.range = {.offset = 5}, .address = inside + 5}));
  BOOST_TEST((placed.bytes().data() == inside + 5));
  BOOST_TEST(text_of(placed.bytes()) == std::string_view{pattern(3 * page)}.substr(5));
  auto const reserved = or_throw(mapping::anonymous(page, {.reserve = 4 * huge, .address = inside + huge}));
  BOOST_TEST((reserved.bytes().data() == inside + huge));

  auto const misplaced = mapping::map(f, {.range = {.offset = 5}, .address = inside + 4 * huge});
  BOOST_REQUIRE(!misplaced);
  BOOST_TEST((misplaced.error() == errc::invalid_options));
}

BOOST_AUTO_TEST_CASE(populated_pages_are_resident) {
  scratch const s;
  auto const f = open_rw(s.file("data", pattern(64 * page)));
  auto const m = or_throw(mapping::map(f, {.populate = true}));
  BOOST_TEST(or_throw(m.residency()).resident_bytes == 64 * page);
  auto const fresh = or_throw(mapping::anonymous(64 * page, {.populate = true}));
  BOOST_TEST(or_throw(fresh.residency()).resident_bytes == 64 * page);
  auto const untouched = or_throw(mapping::anonymous(64 * page));
  BOOST_TEST(or_throw(untouched.residency()).resident_bytes == 0U);
}

BOOST_AUTO_TEST_CASE(a_populate_that_the_system_refuses_is_an_error) {
  scratch const s;
  auto const f = open_rw(s.file("data", pattern(page)));
  armed const table;
  seam::fail(fmmap::os::call::madvise, EFAULT);
  auto const m = mapping::map(f, {.populate = true});
  BOOST_REQUIRE(!m);
  BOOST_TEST((m.error() == std::errc::bad_address));
}

BOOST_AUTO_TEST_CASE(reservations_equal_the_offset_modulo_2_mib) {
  scratch const s;
  auto f = or_throw(file::create_new(s / "big"));
  or_throw(f.resize(16 * huge));
  for (auto const offset :
       {std::uint64_t{0}, std::uint64_t{page}, std::uint64_t{huge + 3 * page + 7}, std::uint64_t{5 * huge}}) {
    auto const m = or_throw(mapping::map(f, {.range = {.offset = offset}, .reserve = gibibyte}));
    BOOST_TEST(address_of(m.bytes().data()) % huge == offset % huge);
  }
}

BOOST_AUTO_TEST_CASE(huge_pages_are_used_or_refused_as_asked) {
  scratch const s;
  auto const f = open_rw(s.file("data", pattern(page)));
  auto const refused = mapping::map(f, {.page_size = fmmap::page_size::require_huge});
  BOOST_REQUIRE(!refused);
  BOOST_TEST((refused.error() == std::errc::invalid_argument));
  auto const contradiction = mapping::anonymous(page, {.stack = true, .page_size = fmmap::page_size::require_huge});
  BOOST_REQUIRE(!contradiction);
  BOOST_TEST((contradiction.error() == errc::invalid_options));
  auto preferred = or_throw(mapping::anonymous(4 * huge, {.page_size = fmmap::page_size::prefer_huge}));
  preferred.writable_bytes()[huge] = std::byte{1};
  auto required = mapping::anonymous(100, {.page_size = fmmap::page_size::require_huge});
  if (!required) { // none are reserved on this machine
    BOOST_TEST((required.error() == std::errc::not_enough_memory));
    return;
  }
  BOOST_TEST(required->capacity() % huge == 0U);
  required->writable_bytes()[99] = std::byte{1};
  or_throw(required->close());
}

BOOST_AUTO_TEST_CASE(required_huge_pages_at_an_address_between_two_of_them_are_refused) {
  auto const spare = or_throw(mapping::anonymous(4 * huge, {.no_reserve = true}));
  auto const gap = (huge - address_of(spare.bytes().data()) % huge) % huge;
  for (auto const off : {page, huge / 2, huge - page}) {
    auto* const address = reinterpret_cast<std::byte*>(address_of(spare.bytes().data()) + gap + off);
    BOOST_TEST(fails(mapping::anonymous(huge, {.page_size = fmmap::page_size::require_huge, .address = address}),
                     errc::invalid_options));
  }
}

BOOST_AUTO_TEST_CASE(preferred_huge_pages_are_asked_of_the_system) {
  if (!std::filesystem::exists("/sys/kernel/mm/transparent_hugepage/enabled")) {
    skip("the system has no transparent huge pages");
    return;
  }
  scratch const s;
  auto const f = open_rw(s.file("data", pattern(8 * page)));
  auto const prefer = fmmap::page_size::prefer_huge;
  auto const plain = or_throw(mapping::anonymous(4 * huge));
  BOOST_TEST(!has_vm_flag(plain.bytes().data(), "hg"));
  auto const memory = or_throw(mapping::anonymous(4 * huge, {.page_size = prefer}));
  BOOST_TEST(has_vm_flag(memory.bytes().data(), "hg"));
  BOOST_TEST(has_vm_flag(memory.bytes().data() + 4 * huge - 1, "hg"));
  auto const of_file = or_throw(mapping::map(f, {.access = access::read_write, .page_size = prefer}));
  BOOST_TEST(has_vm_flag(of_file.bytes().data(), "hg"));
  auto const plain_file = or_throw(mapping::map(f, {.access = access::read_write}));
  BOOST_TEST(!has_vm_flag(plain_file.bytes().data(), "hg"));
}

BOOST_AUTO_TEST_CASE(preferred_huge_pages_stay_so_when_a_file_grows_and_its_mapping_moves) {
  if (!std::filesystem::exists("/sys/kernel/mm/transparent_hugepage/enabled")) {
    skip("the system has no transparent huge pages");
    return;
  }
  scratch const s;
  auto f = open_rw(s.file("data", pattern(page)));
  auto m = or_throw(
      mapping::map(f, {.access = access::read_write, .reserve = 8 * huge, .page_size = fmmap::page_size::prefer_huge}));
  or_throw(f.resize(4 * huge));
  or_throw(m.resize(4 * huge));
  BOOST_TEST(has_vm_flag(m.bytes().data(), "hg"));
  BOOST_TEST(has_vm_flag(m.bytes().data() + 4 * huge - 1, "hg"));
  or_throw(m.reserve(64 * huge));
  BOOST_TEST(has_vm_flag(m.bytes().data(), "hg"));
  BOOST_TEST(has_vm_flag(m.bytes().data() + 4 * huge - 1, "hg"));
}

BOOST_AUTO_TEST_CASE(preferred_huge_pages_stay_so_when_anonymous_memory_grows_and_moves) {
  if (!std::filesystem::exists("/sys/kernel/mm/transparent_hugepage/enabled")) {
    skip("the system has no transparent huge pages");
    return;
  }
  auto m = or_throw(mapping::anonymous(huge, {.reserve = 8 * huge, .page_size = fmmap::page_size::prefer_huge}));
  or_throw(m.resize(4 * huge));
  BOOST_TEST(has_vm_flag(m.bytes().data() + 4 * huge - 1, "hg"));
  or_throw(m.reserve(64 * huge));
  BOOST_TEST(has_vm_flag(m.bytes().data() + 4 * huge - 1, "hg"));
}

BOOST_AUTO_TEST_CASE(the_system_puts_no_huge_page_into_a_stack) {
  if (!std::filesystem::exists("/sys/kernel/mm/transparent_hugepage/enabled")) {
    skip("the system has no transparent huge pages");
    return;
  }
  BOOST_TEST(!has_vm_flag(or_throw(mapping::anonymous(4 * huge)).bytes().data(), "nh"));
  auto m = or_throw(mapping::anonymous(2 * huge, {.stack = true, .reserve = 8 * huge}));
  BOOST_TEST(has_vm_flag(m.bytes().data(), "nh"));
  BOOST_TEST(has_vm_flag(m.bytes().data() + 2 * huge - 1, "nh"));
  or_throw(m.resize(4 * huge));
  BOOST_TEST(has_vm_flag(m.bytes().data() + 4 * huge - 1, "nh"));
  or_throw(m.reserve(16 * huge));
  or_throw(m.resize(16 * huge));
  BOOST_TEST(has_vm_flag(m.bytes().data() + 4 * huge - 1, "nh"));
  BOOST_TEST(has_vm_flag(m.bytes().data() + 16 * huge - 1, "nh"));
}

BOOST_AUTO_TEST_CASE(what_cannot_be_mapped_is_an_error) {
  scratch const s;
  BOOST_REQUIRE(::mkfifo((s / "fifo").c_str(), 0600) == 0);
  std::array<int, 2> sockets{};
  BOOST_REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM, 0, sockets.data()) == 0);
  auto const fifo = or_throw(file::open(s / "fifo", {.access = access::read_write, .any_type = true}));
  auto const folder = or_throw(file::open(s.folder(), {.any_type = true}));
  auto const socket = or_throw(file::adopt(sockets[0], "a socket", true));
  auto const before = maps_count();
  for (auto const* const f : {&fifo, &folder, &socket}) {
    for (auto const wanted : {access::read_only, access::read_write, access::copy_on_write}) {
      for (byte_range const range : {fmmap::whole, byte_range{.offset = 0, .length = page}}) {
        for (std::size_t const reserve : {std::size_t{0}, 16 * page}) {
          auto const m = mapping::map(*f, {.access = wanted, .range = range, .reserve = reserve});
          BOOST_TEST_CONTEXT(f->path() << " access " << static_cast<int>(wanted) << " range " << range.offset << " "
                                       << range.length << " reserve " << reserve) {
            BOOST_TEST(!m.has_value());
          }
        }
      }
    }
  }
  BOOST_TEST((sanitized || maps_count() == before)); // a sanitizer maps memory of its own
  ::close(sockets[1]);
}

BOOST_AUTO_TEST_CASE(the_last_offsets_that_a_file_can_have_map_or_are_errors) {
  auto f = or_throw(file::in_memory("huge"));
  constexpr auto last = std::uint64_t{INT64_MAX}; // the largest size of a file
  auto const content = pattern(page);
  auto const resized = f.resize(last);
  if (fails(resized, std::errc::file_too_large)) {
    skip("files in memory cannot be that large here");
    return;
  }
  or_throw(resized);
  constexpr auto last_page = last - (page - 1);
  auto m =
      or_throw(mapping::map(f, {.access = access::read_write, .range = {.offset = last_page - page, .length = page}}));
  BOOST_TEST(m.file_offset() == last_page - page);
  std::memcpy(m.writable_bytes().data(), content.data(), page);
  std::string got(page, '\0');
  BOOST_TEST(or_throw(f.read_at(last_page - page, std::as_writable_bytes(std::span{got}))) == page);
  BOOST_TEST((got == content));

  // A page that ends past the largest offset cannot be mapped: with its last byte the file would be one byte too large.
  for (std::size_t const reserve : {std::size_t{0}, page, 16 * page}) {
    BOOST_TEST_CONTEXT("reserve " << reserve) {
      BOOST_TEST(
          fails(mapping::map(f, {.range = {.offset = last_page}, .reserve = reserve}), std::errc::value_too_large));
      BOOST_TEST(fails(mapping::map(f, {.range = {.offset = last - 1, .length = 1}, .reserve = reserve}),
                       std::errc::value_too_large));
      BOOST_TEST(fails(mapping::map(f, {.range = {.offset = last_page - page}, .reserve = reserve}),
                       std::errc::value_too_large));
    }
  }
  BOOST_TEST(fails(mapping::map(f, {.range = {.offset = last_page - page, .length = page}, .reserve = 16 * page}),
                   std::errc::value_too_large));
  BOOST_TEST(fails(m.reserve(16 * page), std::errc::value_too_large));
  BOOST_TEST((text_of(m.bytes()) == content));
  BOOST_TEST(or_throw(mapping::map(f, {.range = {.offset = last}})).empty());
  BOOST_TEST(fails(mapping::map(f, {.range = {.offset = last, .length = 1}}), errc::out_of_range));
  BOOST_TEST(fails(mapping::map(f, {.range = {.offset = last + 1, .length = 0}}), errc::out_of_range));
  BOOST_TEST(fails(mapping::map(f), std::errc::not_enough_memory));

  or_throw(m.advise(fmmap::advice::will_need));
  BOOST_TEST(or_throw(m.residency()).resident_bytes == page);
  BOOST_TEST(or_throw(m.lock_memory()).bytes().size() == page);
  BOOST_TEST(fails(m.flush({.offset = 1, .length = 1}), errc::not_durable));
  or_throw(m.discard(fmmap::whole));
  BOOST_TEST((text_of(m.bytes()) == std::string(page, '\0')));
  or_throw(m.close());
}

BOOST_AUTO_TEST_CASE(bytes_at_the_last_offsets_that_a_file_can_have_are_read_and_written) {
  auto f = or_throw(file::in_memory("huge"));
  constexpr auto last = std::uint64_t{INT64_MAX};
  if (!f.resize(last)) {
    skip("files in memory cannot be that large here");
    return;
  }
  or_throw(f.write_at(last - 3, bytes_of("abc")));
  std::array<std::byte, 8> out{};
  auto const three = std::span{out}.first(3);
  BOOST_TEST(or_throw(f.read_at(last - 3, three)) == 3U);
  BOOST_TEST(text_of(three) == "abc");
  BOOST_TEST(or_throw(f.read_at(last, {})) == 0U);
  BOOST_TEST(f.read_at(last - 3, out).value_or(99) == 3U); // what is asked for reaches past the largest offset
  BOOST_TEST(f.read_at(last - 1, out).value_or(99) == 1U);
  BOOST_TEST(f.read_at(last, out).value_or(99) == 0U);

  auto const too_long = f.write_at(last - 2, bytes_of("ABCDE"));
  BOOST_REQUIRE(fails(too_long, std::errc::file_too_large));
  auto const unwritten = too_long.error().range();
  BOOST_REQUIRE((unwritten && unwritten->offset + unwritten->length == last + 3));
  BOOST_TEST(or_throw(f.read_at(last - 3, three)) == 3U);
  auto const count = static_cast<std::size_t>(unwritten->offset - (last - 2)); // what the error does not name
  BOOST_TEST(text_of(three) ==
             std::string{"a"} + std::string{"ABCDE"}.substr(0, count) + std::string{"bc"}.substr(count));
  for (auto const offset : {last + 1, UINT64_MAX - 2, UINT64_MAX}) {
    BOOST_TEST_CONTEXT(offset) {
      BOOST_TEST(!f.write_at(offset, bytes_of("x")).has_value());
      auto const read = f.read_at(offset, out);
      BOOST_TEST((!read.has_value() || *read == 0));
      BOOST_TEST(!f.resize(offset).has_value());
      BOOST_TEST(!f.allocate({.offset = offset, .length = 1}).has_value());
    }
  }
  BOOST_TEST(or_throw(f.size()) == last);
  or_throw(f.punch_hole({.offset = last - 2, .length = 100}));
  BOOST_TEST(or_throw(f.read_at(last - 3, three)) == 3U);
  BOOST_TEST((text_of(three) == std::string_view{"a\0\0", 3}));
  or_throw(f.resize(10));
  BOOST_TEST(or_throw(f.size()) == 10U);
}

BOOST_AUTO_TEST_CASE(an_exhausted_address_space_is_an_error) {
  if (sanitized) {
    skip("a sanitizer has taken more address space than the limit");
    return;
  }
  BOOST_TEST(found_in_child([](findings& found) {
               limit(RLIMIT_AS, std::size_t{2} << 30);
               auto const large = std::size_t{4} << 30;
               found.expect(fails(mapping::anonymous(large), std::errc::not_enough_memory), "4 GiB were mapped");
               found.expect(fails(mapping::anonymous(page, {.reserve = large}), std::errc::not_enough_memory),
                            "4 GiB were reserved");
               found.expect(mapping::anonymous(page).has_value(), "a page cannot be mapped");
             }) == "");
}

BOOST_AUTO_TEST_CASE(a_reserve_that_the_address_space_does_not_hold_is_an_error_and_the_view_stays) {
  if (sanitized) {
    skip("a sanitizer has taken more address space than the limit");
    return;
  }
  scratch const s;
  BOOST_TEST(found_in_child([&](findings& found) {
               auto const f = open_rw(s.file("data", pattern(3 * page)));
               auto of_file = or_throw(mapping::map(f, {.access = access::read_write, .reserve = 8 * page}));
               auto memory = or_throw(mapping::anonymous(3 * page));
               std::memcpy(memory.writable_bytes().data(), pattern(3 * page).data(), 3 * page);
               limit(RLIMIT_AS, std::size_t{2} << 30);
               auto const before = maps_count();
               for (auto* const m : {&of_file, &memory}) {
                 auto const* const data = m->bytes().data();
                 auto const capacity = m->capacity();
                 found.expect(fails(m->reserve(std::size_t{4} << 30), std::errc::not_enough_memory),
                              "4 GiB were reserved");
                 found.expect(m->bytes().data() == data && m->capacity() == capacity, "the view moved");
                 found.expect(text_of(m->bytes()) == pattern(3 * page), "the bytes changed");
                 m->writable_bytes()[0] = m->bytes()[0];
                 or_throw(m->resize(page));
                 or_throw(m->resize(3 * page));
                 or_throw(m->reserve(std::size_t{64} << 20)); // there is room for less
               }
               found.expect(maps_count() <= before + 2, "something stays mapped");
             }) == "");
}

BOOST_AUTO_TEST_CASE(exhausted_mappings_are_an_error_and_what_is_mapped_stays) {
  std::size_t most = 0;
  std::ifstream{"/proc/sys/vm/max_map_count"} >> most;
  if (sanitized || most == 0 || most > 200'000) {
    skip(sanitized ? "a sanitizer needs mappings of its own" : "the system allows more mappings than can be made here");
    return;
  }
  scratch const s;
  BOOST_TEST(
      found_in_child([&](findings& found) {
        auto const f = open_rw(s.file("data", pattern(3 * page)));
        auto of_file = or_throw(mapping::map(f, {.access = access::read_write}));
        auto memory = or_throw(mapping::anonymous(3 * page));
        std::memcpy(memory.writable_bytes().data(), pattern(3 * page).data(), 3 * page);
        auto closed = or_throw(mapping::map(f));
        auto locked = or_throw(mapping::anonymous(3 * page, {.shared = true}));
        auto growing = or_throw(mapping::anonymous(page, {.shared = true, .reserve = 64 * page}));
        auto shrinking = or_throw(mapping::anonymous(3 * page, {.shared = true, .reserve = 64 * page}));
        growing.writable_bytes()[page - 1] = shrinking.writable_bytes()[page - 1] = std::byte{1};
        shrinking.writable_bytes()[3 * page - 1] = std::byte{1};
        // Three pages that the system has as one mapping, and closing the middle one would make two of.
        std::array<mapping, 3> neighbours;
        {
          auto spare = or_throw(mapping::anonymous(5 * page));
          auto* const begin = spare.writable_bytes().data() + page;
          or_throw(spare.close());
          for (std::size_t i = 0; i < 3; ++i) {
            neighbours[i] = or_throw(mapping::anonymous(page, {.address = begin + i * page}));
            neighbours[i].writable_bytes()[0] = std::byte{1};
          }
        }

        auto const length = 2 * most * page;
        auto* const many = static_cast<std::byte*>(
            ::mmap(nullptr, length, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
        found.expect(many != MAP_FAILED, "no memory to make many mappings of");
        std::size_t split = 0;
        while (split < length && ::mprotect(many + split, page, PROT_READ | PROT_WRITE) == 0) {
          split += 2 * page;
        }
        found.expect(errno == ENOMEM, "the mappings are not exhausted");
        std::vector<void*> more; // mmap goes on a little longer than mprotect
        more.reserve(100);
        while (more.size() < 100) {
          auto* const one = ::mmap(nullptr, page, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
          if (one == MAP_FAILED) {
            break;
          }
          more.push_back(one);
        }
        found.expect(more.size() < 100, "mappings can still be made");

        auto const out_of_memory = [](auto const& outcome) { return fails(outcome, std::errc::not_enough_memory); };
        found.expect(out_of_memory(mapping::map(f)), "a file was mapped");
        found.expect(out_of_memory(mapping::map(f, {.reserve = 8 * page})), "a file was mapped with a reserve");
        found.expect(out_of_memory(mapping::anonymous(page, {.shared = true})), "memory was mapped");
        found.expect(out_of_memory(mapping::anonymous(page, {.reserve = 8 * page})), "memory was reserved");
        found.expect(out_of_memory(of_file.reserve(gibibyte)), "a file was moved");
        found.expect(out_of_memory(memory.reserve(gibibyte)), "memory was moved");
        found.expect(out_of_memory(growing.resize(32 * page)) && growing.size() == page, "memory has grown");
        found.expect(growing.bytes()[page - 1] == std::byte{1}, "memory that did not grow has changed");
        found.expect(out_of_memory(shrinking.resize(page)) && shrinking.size() == 3 * page, "memory was cut off");
        found.expect(shrinking.bytes()[3 * page - 1] == std::byte{1}, "memory that stays has changed");
        found.expect(!of_file.advise(fmmap::advice::dont_fork, {.offset = page, .length = 1}),
                     "advice has split a mapping");
        found.expect(!locked.lock_memory({.offset = page, .length = 1}), "a lock has split a mapping");
        found.expect(text_of(of_file.bytes()) == pattern(3 * page), "the file's bytes changed");
        found.expect(text_of(memory.bytes()) == pattern(3 * page), "the memory's bytes changed");
        of_file.writable_bytes()[0] = of_file.bytes()[0];
        found.expect(or_throw(of_file.flush({.offset = 0, .length = 1})) == fmmap::durability::data, "no flush");
        or_throw(of_file.protect(access::read_only)); // splits nothing
        found.expect(of_file.access() == access::read_only, "the access did not change");
        or_throw(closed.close());
        found.expect(out_of_memory(neighbours[1].close()), "an unmap that failed was not reported");
        found.expect(neighbours[0].bytes()[0] == std::byte{1} && neighbours[2].bytes()[0] == std::byte{1},
                     "the neighbours changed");

        ::munmap(many, length);
        or_throw(growing.resize(32 * page));
        found.expect(growing.bytes()[32 * page - 1] == std::byte{0}, "what grew is not zero");
        or_throw(shrinking.resize(page));
        or_throw(shrinking.resize(3 * page));
        found.expect(shrinking.bytes()[page - 1] == std::byte{1} && shrinking.bytes()[3 * page - 1] == std::byte{0},
                     "what was cut off comes back");
        or_throw(of_file.protect(access::read_write));
        or_throw(of_file.reserve(gibibyte));
        or_throw(memory.reserve(gibibyte));
        found.expect(text_of(memory.bytes()) == pattern(3 * page), "moving changed the memory");
        found.expect(text_of(of_file.bytes()) == pattern(3 * page), "moving changed the file");
        (void)or_throw(locked.lock_memory({.offset = page, .length = 1}));
        for (auto* const m : {&of_file, &memory, &locked, neighbours.data(), &neighbours[2]}) {
          or_throw(m->close());
        }
      }) == "");
}

BOOST_AUTO_TEST_CASE(near_the_last_mapping_a_call_works_or_leaves_nothing) {
  std::size_t most = 0;
  std::ifstream{"/proc/sys/vm/max_map_count"} >> most;
  if (sanitized || most == 0 || most > 200'000) {
    skip(sanitized ? "a sanitizer needs mappings of its own" : "the system allows more mappings than can be made here");
    return;
  }
  scratch const s;
  BOOST_TEST(found_in_child([&](findings& found) {
               auto const f = open_rw(s.file("data", pattern(3 * page)));
               auto const length = 2 * most * page;
               auto* const many = static_cast<std::byte*>(
                   ::mmap(nullptr, length, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
               std::size_t split = 0;
               while (split < length && ::mprotect(many + split, page, PROT_READ | PROT_WRITE) == 0) {
                 split += 2 * page;
               }
               int done = 0;
               for (std::size_t room = 0; room < 10; ++room) { // two more mappings each time
                 auto const before = maps_count();
                 for (int which = 0; which < 4; ++which) {
                   auto made = which == 0   ? mapping::map(f, {.access = access::read_write, .reserve = 8 * page})
                               : which == 1 ? mapping::map(f, {.access = access::copy_on_write})
                               : which == 2 ? mapping::anonymous(3 * page, {.reserve = 8 * page})
                                            : mapping::anonymous(3 * page, {.shared = true});
                   if (made) {
                     ++done;
                     auto const all = std::string{text_of(made->bytes())};
                     auto const moved = which == 1 || made->reserve(64 * page).has_value();
                     found.expect(text_of(made->bytes()) == all, "the bytes changed");
                     found.expect(moved || made->capacity() < 64 * page, "a failed reserve tells a capacity");
                     or_throw(made->close());
                   } else {
                     found.expect(made.error() == std::errc::not_enough_memory, made.error().message());
                   }
                 }
                 auto const after = maps_count();
                 found.expect(after == before, "with room for " + std::to_string(2 * room) + " the calls leave " +
                                                   std::to_string(after - before));
                 split -= 2 * page;
                 ::mprotect(many + split, page, PROT_READ);
               }
               found.expect(done >= 20, "too few calls worked");
             }) == "");
}

BOOST_AUTO_TEST_CASE(code_on_a_file_system_without_execution_is_refused_and_the_access_stays) {
  scratch const s;
  BOOST_TEST(found_in_child([&](findings& found) {
               if (auto const problem = own_mounts(); !problem.empty()) {
                 found.skip("a file system without execution: " + problem);
                 return;
               }
               if (::mount("none", s.folder().c_str(), "tmpfs", MS_NOEXEC, nullptr) != 0) {
                 found.skip(std::string{"a file system without execution: "} + std::strerror(errno));
                 return;
               }
               auto const f = open_rw(s.file("code", pattern(page)));
               auto const mapped = mapping::map(f, {.executable = true});
               found.expect(fails(mapped, std::errc::operation_not_permitted), "code was mapped");
               found.expect(!mapped && mapped.error().path() == (s / "code").native(), "the error does not name it");
               found.expect(fails(mapping::map(f, {.executable = true, .reserve = 8 * page}),
                                  std::errc::operation_not_permitted),
                            "code was mapped with a reserve");
               for (auto const wanted : {access::read_only, access::read_write, access::copy_on_write}) {
                 auto m = or_throw(mapping::map(f, {.access = wanted}));
                 found.expect(fails(m.protect(access::read_only, true), std::errc::permission_denied),
                              "code may be run");
                 found.expect(!m.is_executable(), "it says it is executable");
                 found.expect(m.access() == wanted, "the access is another");
                 found.expect(text_of(m.bytes()) == pattern(page), "the bytes are others");
                 if (wanted != access::read_only) {
                   m.writable_bytes()[0] = m.bytes()[0]; // may still be written
                 }
               }
             }) == "");
}

BOOST_AUTO_TEST_CASE(a_device_maps_the_range_that_is_named) {
  auto const zero = file::open("/dev/zero", {.access = access::read_write, .any_type = true});
  BOOST_REQUIRE(zero.has_value());
  auto m = or_throw(mapping::map(*zero, {.access = access::copy_on_write, .range = {.offset = 0, .length = page}}));
  BOOST_TEST((m.bytes()[page - 1] == std::byte{0}));
  BOOST_TEST(or_throw(mapping::map(*zero)).empty());
}

BOOST_AUTO_TEST_CASE(a_file_that_is_not_open_cannot_be_mapped) {
  auto const m = mapping::map(file{});
  BOOST_REQUIRE(!m);
  BOOST_TEST((m.error() == errc::closed));
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(mapping_lifetime)

BOOST_AUTO_TEST_CASE(outlives_the_handle_of_its_file) {
  scratch const s;
  auto m = [&] {
    auto const f = open_rw(s.file("data", pattern(page)));
    return or_throw(mapping::map(f, {.access = access::read_write}));
  }();
  m.writable_bytes()[0] = std::byte{'!'};
  BOOST_TEST((or_throw(m.flush()) == fmmap::durability::data));
  BOOST_TEST(read_back(s / "data")[0] == '!');
}

BOOST_AUTO_TEST_CASE(moving_the_object_keeps_its_bytes_and_flags_and_empties_the_source) {
  scratch const s;
  auto const f = or_throw(file::open(s.file("data", pattern(page))));
  auto first =
      or_throw(mapping::map(f, {.access = access::copy_on_write, .range = {.offset = 10}, .reserve = 4 * page}));
  auto const* const data = first.bytes().data();
  auto second = std::move(first);
  BOOST_TEST((second.bytes().data() == data));
  BOOST_TEST((second.access() == access::copy_on_write));
  BOOST_TEST(second.file_offset() == 10U);
  BOOST_TEST((second.flush().error() == errc::copy_on_write));
  BOOST_TEST(first.bytes().empty());
  BOOST_TEST(!first.is_open());
  auto third = or_throw(mapping::anonymous(page));
  third = std::move(second);
  BOOST_TEST((third.bytes().data() == data));
  auto& same = third;
  third = std::move(same);
  BOOST_TEST((third.bytes().data() == data));
}

BOOST_AUTO_TEST_CASE(what_is_called_on_a_closed_or_moved_from_mapping_is_an_error) {
  auto m = or_throw(mapping::anonymous(page));
  or_throw(m.close());
  mapping never;
  for (auto* const closed : {&m, &never}) {
    BOOST_TEST(closed->bytes().empty());
    BOOST_TEST(closed->writable_bytes().empty());
    BOOST_TEST((closed->resize(1).error() == errc::closed));
    BOOST_TEST((closed->reserve(1).error() == errc::closed));
    BOOST_TEST((closed->protect(access::read_only).error() == errc::closed));
    BOOST_TEST((closed->advise(fmmap::advice::normal).error() == errc::closed));
    BOOST_TEST((closed->discard(fmmap::whole).error() == errc::closed));
    BOOST_TEST((closed->lock_memory().error() == errc::closed));
    BOOST_TEST((closed->residency().error() == errc::closed));
    BOOST_TEST((closed->flush().error() == errc::closed));
    BOOST_TEST((closed->stage_flush().error() == errc::closed));
    BOOST_TEST((closed->rewrite().error() == errc::closed));
    BOOST_TEST((closed->share().error() == errc::closed));
    BOOST_TEST((closed->bytes(fmmap::whole).error() == errc::closed));
    BOOST_TEST((closed->close().error() == errc::closed));
  }
}

BOOST_AUTO_TEST_CASE(an_empty_mapping_is_valid_in_every_function) {
  scratch const s;
  auto f = open_rw(s.file("empty", ""));
  auto of_file = or_throw(mapping::map(f, {.access = access::read_write}));
  auto of_range = or_throw(
      mapping::map(open_rw(s.file("data", pattern(10))), {.access = access::read_write, .range = {.offset = 10}}));
  auto anonymous = or_throw(mapping::anonymous(0));
  for (auto* const m : {&of_file, &of_range, &anonymous}) {
    BOOST_TEST(m->is_open());
    BOOST_TEST(m->empty());
    BOOST_TEST(m->bytes().empty());
    BOOST_TEST(m->resize(0).has_value());
    BOOST_TEST(m->advise(fmmap::advice::will_need).has_value());
    BOOST_TEST(m->discard(fmmap::whole).has_value());
    BOOST_TEST(m->lock_memory().has_value());
    BOOST_TEST(or_throw(m->residency()).resident_bytes == 0U);
    BOOST_TEST(m->protect(access::read_only).has_value());
    BOOST_TEST(m->protect(access::read_write).has_value());
    BOOST_TEST(m->share().has_value());
    BOOST_TEST(or_throw(m->bytes(fmmap::whole)).empty());
    if (m != &anonymous) {
      BOOST_TEST(m->flush().has_value());
      BOOST_TEST(or_throw(m->stage_flush()).run().has_value());
      BOOST_TEST(m->rewrite().has_value());
    }
  }
  or_throw(f.resize(5));
  or_throw(of_file.reserve(page));
  or_throw(of_file.resize(5));
  BOOST_TEST(of_file.size() == 5U);
  or_throw(anonymous.reserve(page));
  or_throw(anonymous.resize(5));
  anonymous.writable_bytes()[4] = std::byte{1};
  for (auto* const m : {&of_file, &of_range, &anonymous}) {
    or_throw(m->close());
  }
}

BOOST_AUTO_TEST_CASE(shared_bytes_keep_the_memory_when_the_mapping_is_gone) {
  scratch const s;
  fmmap::shared_bytes kept;
  {
    auto const f = or_throw(file::open(s.file("data", pattern(3 * page))));
    auto m = or_throw(mapping::map(f));
    BOOST_TEST((m.share({.offset = 3 * page, .length = 1}).error() == errc::out_of_range));
    kept = or_throw(m.share({.offset = page + 1, .length = 100}));
    or_throw(m.close());
  }
  auto const copy = kept;
  kept = {};
  BOOST_TEST(text_of(copy.bytes()) == std::string_view{pattern(3 * page)}.substr(page + 1, 100));
}

// A file has room in its own memory for one of its mappings, whichever takes it first.
BOOST_AUTO_TEST_CASE(each_of_many_mappings_of_a_file_ends_on_its_own) {
  scratch const s;
  auto const content = pattern(3 * page);
  fmmap::shared_bytes last;
  {
    auto const f = or_throw(file::open(s.file("data", content)));
    std::vector<std::optional<mapping>> some(3);
    for (std::size_t round = 0; round < 9; ++round) {
      some[round % 3] = or_throw(mapping::map(f));
      some[(round * 2 + 1) % 3].reset();
      for (auto const& m : some) {
        BOOST_TEST((!m || text_of(m->bytes()) == content));
      }
    }
    last = or_throw(or_throw(mapping::map(f)).share());
    some.clear();
    auto const again = or_throw(mapping::map(f));
    BOOST_TEST((text_of(again.bytes()) == content));
  }
  BOOST_TEST((text_of(last.bytes()) == content));
}

BOOST_AUTO_TEST_CASE(close_reports_an_unmap_that_fails_and_a_destructor_hands_it_to_the_handler) {
  static std::string heard;
  auto const before = fmmap::set_dropped_error_handler([](fmmap::error const& why) noexcept { heard = why.message(); });
  for (bool const closing : {true, false}) {
    heard.clear();
    void* leaked = nullptr;
    {
      auto m = or_throw(mapping::anonymous(page));
      leaked = m.writable_bytes().data();
      armed const table;
      seam::fail(fmmap::os::call::munmap, ENOMEM);
      if (closing) {
        BOOST_TEST((m.close().error() == std::errc::not_enough_memory));
        BOOST_TEST(heard.empty());
      }
      m = mapping{};
    }
    BOOST_TEST(heard.empty() == closing);
    ::munmap(leaked, page);
  }
  fmmap::set_dropped_error_handler(before);
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(mapping_growth)

BOOST_AUTO_TEST_CASE(a_file_grows_inside_the_reservation_without_moving) {
  scratch const s;
  auto f = open_rw(s.file("data", pattern(10)));
  auto m = or_throw(mapping::map(f, {.access = access::read_write, .reserve = gibibyte}));
  auto const* const base = m.bytes().data();
  for (std::size_t size = 10; size < 64 * huge; size = size * 2 + 1) {
    or_throw(f.resize(size));
    or_throw(m.resize(size));
    m.writable_bytes()[size - 1] = std::byte{1};
  }
  BOOST_TEST((m.bytes().data() == base));
  BOOST_TEST(text_of(m.bytes().first(9)) == pattern(10).substr(0, 9));
}

BOOST_AUTO_TEST_CASE(growing_past_the_file_or_the_reservation_is_an_error_and_changes_nothing) {
  scratch const s;
  auto f = open_rw(s.file("data", pattern(10)));
  auto m = or_throw(mapping::map(f, {.access = access::read_write, .reserve = 2 * page}));
  BOOST_TEST((m.resize(11).error() == errc::out_of_range));
  BOOST_TEST((m.resize(2 * page + 1).error() == errc::reservation_exceeded));
  BOOST_TEST(m.size() == 10U);
  or_throw(m.resize(3));
  BOOST_TEST(m.bytes().size() == 3U);
  or_throw(m.resize(10));
}

BOOST_AUTO_TEST_CASE(anonymous_memory_grows_in_place_and_what_was_cut_off_comes_back_as_zero) {
  for (bool const shared : {false, true}) {
    auto m = or_throw(mapping::anonymous(100, {.shared = shared, .reserve = gibibyte}));
    auto const* const base = m.bytes().data();
    for (std::size_t size = 100; size < (std::size_t{1} << 22); size *= 2) {
      or_throw(m.resize(size));
      m.writable_bytes()[size - 1] = std::byte{1};
    }
    BOOST_TEST((m.bytes().data() == base));
    BOOST_TEST((m.bytes()[99] == std::byte{1}));
    or_throw(m.resize(10));
    or_throw(m.resize(5000));
    for (std::size_t i = 10; i < 5000; ++i) {
      BOOST_REQUIRE((m.bytes()[i] == std::byte{0}));
    }
  }
}

BOOST_AUTO_TEST_CASE(anonymous_memory_that_cannot_grow_stays_as_it_was_and_grows_later) {
  for (bool const shared : {false, true}) {
    auto m = or_throw(mapping::anonymous(page, {.shared = shared, .reserve = gibibyte}));
    m.writable_bytes()[0] = std::byte{1};
    {
      armed const table;
      seam::fail(fmmap::os::call::mprotect, ENOMEM, 1);
      seam::fail(fmmap::os::call::mmap, ENOMEM, 1);
      BOOST_TEST(fails(m.resize(8 * page), std::errc::not_enough_memory));
    }
    BOOST_TEST(m.size() == page);
    BOOST_TEST((m.bytes()[0] == std::byte{1}));
    or_throw(m.resize(8 * page));
    m.writable_bytes()[8 * page - 1] = std::byte{1};
  }
}

BOOST_AUTO_TEST_CASE(what_a_view_or_a_lock_holds_is_not_cut_off_anonymous_memory) {
  auto m = or_throw(mapping::anonymous(3 * page));
  m.writable_bytes()[3 * page - 1] = std::byte{1};
  {
    auto const kept = or_throw(m.share());
    BOOST_TEST(fails(m.resize(page), errc::in_use));
    BOOST_TEST((kept.bytes()[3 * page - 1] == std::byte{1}));
    or_throw(m.resize(3 * page));
  }
  {
    auto const locked = or_throw(m.lock_memory());
    BOOST_TEST(fails(m.resize(page), errc::in_use));
  }
  BOOST_TEST(m.size() == 3 * page);
  or_throw(m.resize(page));
}

// Before Linux 6.17.
BOOST_AUTO_TEST_CASE(memory_that_the_system_cannot_move_in_one_piece_is_copied) {
  auto m = or_throw(mapping::anonymous(8 * page));
  std::memcpy(m.writable_bytes().data(), pattern(8 * page).data(), 8 * page);
  armed const table;
  seam::fail(fmmap::os::call::mremap, EFAULT, 1);
  or_throw(m.reserve(gibibyte));
  BOOST_TEST((text_of(m.bytes()) == pattern(8 * page)));
  BOOST_TEST(m.capacity() >= gibibyte);

  auto shared = or_throw(mapping::anonymous(page, {.shared = true}));
  auto const* const base = shared.bytes().data();
  seam::fail(fmmap::os::call::mremap, EFAULT, 1);
  BOOST_TEST(fails(shared.reserve(gibibyte), std::errc::bad_address)); // a copy would no longer be shared
  BOOST_TEST((shared.bytes().data() == base));
}

BOOST_AUTO_TEST_CASE(reserving_more_keeps_what_was_advised) {
  scratch const s;
  auto const f = open_rw(s.file("data", pattern(8 * page)));
  auto mapped = or_throw(mapping::map(f, {.access = access::read_write}));
  auto anonymous = or_throw(mapping::anonymous(8 * page));
  for (auto* m : {&mapped, &anonymous}) {
    or_throw(m->advise(fmmap::advice::dont_fork));
    or_throw(m->advise(fmmap::advice::do_fork, {.offset = 4 * page, .length = page}));
    or_throw(m->advise(fmmap::advice::dont_dump, {.offset = 2 * page, .length = page}));
    auto const* const before = m->bytes().data();
    or_throw(m->reserve(gibibyte));
    BOOST_TEST((m->bytes().data() != before));
    auto const* const at = m->bytes().data();
    BOOST_TEST(has_vm_flag(at, "dc"));
    BOOST_TEST(!has_vm_flag(at + 4 * page, "dc"));
    BOOST_TEST(has_vm_flag(at + 2 * page, "dd"));
    BOOST_TEST(!has_vm_flag(at + 3 * page, "dd"));
  }
  auto const locked = or_throw(mapped.lock_memory());
  BOOST_TEST(fails(mapped.reserve(2 * gibibyte), errc::in_use));
}

BOOST_AUTO_TEST_CASE(reserving_more_moves_the_bytes_along) {
  scratch const s;
  auto f = open_rw(s.file("data", pattern(3 * page)));
  auto shared_file = or_throw(mapping::map(f, {.access = access::read_write, .range = {.offset = 1}}));
  auto anonymous = or_throw(mapping::anonymous(3 * page));
  std::memcpy(anonymous.writable_bytes().data(), pattern(3 * page).data(), 3 * page);
  auto const before = maps_count();
  for (std::size_t capacity = 8 * page; capacity <= gibibyte; capacity *= 8) {
    or_throw(shared_file.reserve(capacity));
    or_throw(anonymous.reserve(capacity));
    BOOST_TEST(shared_file.capacity() >= capacity);
    BOOST_TEST(anonymous.capacity() >= capacity);
    BOOST_TEST((text_of(shared_file.bytes()) == std::string_view{pattern(3 * page)}.substr(1)));
    BOOST_TEST((text_of(anonymous.bytes()) == pattern(3 * page)));
  }
  BOOST_TEST(maps_count() <= before + 4); // the reserve behind each, and nothing left at ten places where they were
  BOOST_TEST((shared_file.reserve(SIZE_MAX).error() == std::errc::not_enough_memory));
  BOOST_TEST((anonymous.reserve(SIZE_MAX).error() == std::errc::not_enough_memory));
  BOOST_TEST((text_of(anonymous.bytes()) == pattern(3 * page)));

  auto cow = or_throw(mapping::map(f, {.access = access::copy_on_write}));
  BOOST_TEST((cow.reserve(gibibyte).error() == errc::copy_on_write));
  auto const kept = or_throw(anonymous.share());
  BOOST_TEST((anonymous.reserve(2 * gibibyte).error() == errc::in_use));
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(mapping_protect)

BOOST_AUTO_TEST_CASE(follows_the_table_of_allowed_changes) {
  scratch const s;
  auto const path = s.file("data", pattern(page));
  auto const writable = open_rw(path);
  auto const readable = or_throw(file::open(path));
  auto shared = or_throw(mapping::map(writable, {.access = access::read_write}));
  auto read_only = or_throw(mapping::map(readable));
  auto cow = or_throw(mapping::map(readable, {.access = access::copy_on_write}));
  auto anonymous = or_throw(mapping::anonymous(page));

  or_throw(shared.protect(access::read_only));
  BOOST_TEST(shared.writable_bytes().empty());
  or_throw(shared.protect(access::read_write));
  shared.writable_bytes()[0] = std::byte{1};
  BOOST_TEST((shared.protect(access::copy_on_write).error() == errc::invalid_options));
  or_throw(shared.protect(access::read_only, true));
  BOOST_TEST(shared.is_executable());

  BOOST_TEST((read_only.protect(access::read_write).error() == errc::read_only));
  BOOST_TEST((read_only.access() == access::read_only));

  or_throw(cow.protect(access::read_only));
  BOOST_TEST((cow.protect(access::read_write).error() == errc::copy_on_write));
  or_throw(cow.protect(access::copy_on_write));
  cow.writable_bytes()[0] = std::byte{2};

  or_throw(anonymous.protect(access::read_only));
  BOOST_TEST((anonymous.resize(1).error() == errc::read_only));
  or_throw(anonymous.protect(access::read_write));
  BOOST_TEST((anonymous.protect(access::copy_on_write).error() == errc::invalid_options));
  for (auto const writes : {access::read_write, access::copy_on_write}) {
    BOOST_TEST((anonymous.protect(writes, true).error() == errc::writable_and_executable));
  }
}

BOOST_AUTO_TEST_CASE(is_enforced_by_the_system) {
  auto m = or_throw(mapping::anonymous(page));
  auto* const data = m.writable_bytes().data();
  or_throw(m.protect(access::read_only));
  BOOST_TEST(dies_of(SIGSEGV, [&] { *static_cast<std::byte volatile*>(data) = std::byte{1}; }));
}

BOOST_AUTO_TEST_CASE(leaves_the_access_as_it_was_when_the_system_refuses) {
  auto m = or_throw(mapping::anonymous(page));
  armed const table;
  seam::fail(fmmap::os::call::mprotect, EACCES);
  BOOST_TEST((m.protect(access::read_only).error() == std::errc::permission_denied));
  BOOST_TEST((m.access() == access::read_write));
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(mapping_advise)

BOOST_AUTO_TEST_CASE(every_advice_is_taken_or_refused_by_name_and_changes_no_byte) {
  scratch const s;
  auto const content = pattern(8 * page);
  auto const f = open_rw(s.file("data", content));
  for (int value = 0; value <= static_cast<int>(fmmap::advice::unmergeable); ++value) {
    auto const what = static_cast<fmmap::advice>(value);
    auto file_map = or_throw(mapping::map(f, {.access = access::read_write}));
    auto memory = or_throw(mapping::anonymous(8 * page));
    std::memcpy(memory.writable_bytes().data(), content.data(), content.size());
    BOOST_TEST_CONTEXT(fmmap::to_string(what)) {
      auto const on_file = file_map.advise(what, {.offset = 1, .length = page});
      auto const on_memory = memory.advise(what, {.offset = 1, .length = page});
      if (!on_file) {
        BOOST_TEST((on_file.error() == std::errc::invalid_argument));
        BOOST_TEST(on_file.error().message().find(fmmap::to_string(what)) != std::string::npos);
      }
      BOOST_TEST(text_of(file_map.bytes()) == content);
      BOOST_TEST(text_of(memory.bytes()) == content);
      if (what == fmmap::advice::dont_need) {
        BOOST_TEST(on_file.has_value());
        BOOST_TEST((on_memory.error() == errc::destructive_advice));
      }
      if (what == fmmap::advice::normal || what == fmmap::advice::random || what == fmmap::advice::populate_read ||
          what == fmmap::advice::dont_fork || what == fmmap::advice::dont_dump) {
        BOOST_TEST(on_file.has_value());
        BOOST_TEST(on_memory.has_value());
      }
      BOOST_TEST((file_map.advise(what, {.offset = 8 * page, .length = 1}).error() == errc::out_of_range));
      if (what != fmmap::advice::dont_need) {
        BOOST_TEST(memory.advise(what, {.offset = 8 * page, .length = 0}).has_value());
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(reaches_the_pages_around_the_range_and_no_others) {
  auto m = or_throw(mapping::anonymous(64 * page));
  or_throw(m.advise(fmmap::advice::populate_write, {.offset = 10 * page + 100, .length = page}));
  BOOST_TEST(or_throw(m.residency()).resident_bytes == 2 * page);
  BOOST_TEST(or_throw(m.residency({.offset = 10 * page, .length = 2 * page})).resident_bytes == 2 * page);
}

BOOST_AUTO_TEST_CASE(an_advice_that_the_system_does_not_know_is_an_error) {
  auto m = or_throw(mapping::anonymous(page));
  armed const table;
  seam::fail(fmmap::os::call::madvise, EINVAL);
  auto const refused = m.advise(fmmap::advice::cold);
  BOOST_REQUIRE(!refused);
  BOOST_TEST(refused.error().message().contains("this system or this kind of mapping does not know it"));
}

BOOST_AUTO_TEST_CASE(dont_fork_and_wipe_on_fork_do_what_they_say) {
  auto kept_from_child = or_throw(mapping::anonymous(page));
  auto wiped = or_throw(mapping::anonymous(page));
  kept_from_child.writable_bytes()[0] = wiped.writable_bytes()[0] = std::byte{1};
  or_throw(kept_from_child.advise(fmmap::advice::dont_fork));
  or_throw(wiped.advise(fmmap::advice::wipe_on_fork));
  BOOST_TEST(found_in_child([&](findings& found) {
               found.expect(wiped.bytes()[0] == std::byte{0}, "the child sees what was to be wiped");
             }) == "");
  BOOST_TEST(dies_of(SIGSEGV, [&] { (void)*static_cast<std::byte const volatile*>(kept_from_child.bytes().data()); }));
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(mapping_discard)

BOOST_AUTO_TEST_CASE(destroys_the_whole_pages_inside_the_range_and_nothing_beside_them) {
  scratch const s;
  auto const content = pattern(8 * page);
  auto expected = content;
  std::fill(expected.begin() + 2 * page, expected.begin() + 5 * page, '\0');
  byte_range const range{.offset = page + 1, .length = 4 * page + 10}; // pages 2, 3 and 4 are wholly inside

  auto f = open_rw(s.file("data", content));
  auto shared_file = or_throw(mapping::map(f, {.access = access::read_write}));
  or_throw(shared_file.discard(range));
  BOOST_TEST((text_of(shared_file.bytes()) == expected));
  BOOST_TEST((read_back(s / "data") == expected));

  for (bool const shared : {false, true}) {
    auto memory = or_throw(mapping::anonymous(8 * page, {.shared = shared}));
    std::memcpy(memory.writable_bytes().data(), content.data(), content.size());
    or_throw(memory.discard(range));
    BOOST_TEST((text_of(memory.bytes()) == expected));
  }
}

BOOST_AUTO_TEST_CASE(brings_a_copy_on_write_mapping_back_to_its_file) {
  scratch const s;
  auto const content = pattern(3 * page);
  auto const f = or_throw(file::open(s.file("data", content)));
  auto m = or_throw(mapping::map(f, {.access = access::copy_on_write, .range = {.offset = 5}}));
  std::memset(m.writable_bytes().data(), 1, m.size());
  or_throw(m.discard(fmmap::whole));
  BOOST_TEST((text_of(m.bytes().subspan(page - 5, page)) == std::string_view{content}.substr(page, page)));
  BOOST_TEST((m.bytes()[0] == std::byte{1})); // of a page the range holds only a part of
}

BOOST_AUTO_TEST_CASE(follows_the_file_offset_of_an_unaligned_mapping) {
  scratch const s;
  auto const content = pattern(6 * page);
  auto expected = content;
  std::fill(expected.begin() + 3 * page, expected.begin() + 4 * page, '\0');
  auto f = open_rw(s.file("data", content));
  auto m = or_throw(mapping::map(f, {.access = access::read_write, .range = {.offset = page + 100}}));
  or_throw(m.protect(access::read_only)); // against stray stores, not against this
  or_throw(m.discard({.offset = 2 * page - 200, .length = page + 150}));
  BOOST_TEST((read_back(s / "data") == expected));
}

BOOST_AUTO_TEST_CASE(is_refused_for_a_file_opened_for_reading_and_out_of_range) {
  scratch const s;
  auto const f = or_throw(file::open(s.file("data", pattern(2 * page))));
  auto m = or_throw(mapping::map(f));
  BOOST_TEST((m.discard(fmmap::whole).error() == errc::read_only));
  auto memory = or_throw(mapping::anonymous(page));
  BOOST_TEST((memory.discard({.offset = 1, .length = page}).error() == errc::out_of_range));
  BOOST_TEST((memory.discard({.offset = UINT64_MAX, .length = page}).error() == errc::out_of_range));
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(mapping_lock_memory)

namespace {

auto locked_bytes() -> std::size_t { return status_field("VmLck:") * 1024; }

} // namespace

BOOST_AUTO_TEST_CASE(holds_the_pages_around_the_range_until_it_goes) {
  auto const before = locked_bytes();
  auto m = or_throw(mapping::anonymous(16 * page));
  {
    auto const held = or_throw(m.lock_memory({.offset = page + 1, .length = page}));
    BOOST_TEST(held.bytes().size() == 2 * page);
    BOOST_TEST(locked_bytes() == before + 2 * page);
    BOOST_TEST(or_throw(m.residency()).resident_bytes == 2 * page);
  }
  BOOST_TEST(locked_bytes() == before);
  auto const lazily = or_throw(m.lock_memory({.offset = 8 * page, .length = 4 * page}, {.on_fault = true}));
  BOOST_TEST(or_throw(m.residency({.offset = 8 * page, .length = 4 * page})).resident_bytes == 0U);
  BOOST_TEST(locked_bytes() == before + 4 * page);
}

BOOST_AUTO_TEST_CASE(overlapping_locks_may_be_released_in_any_order) {
  auto const before = locked_bytes();
  auto m = or_throw(mapping::anonymous(16 * page));
  std::optional first = or_throw(m.lock_memory({.offset = 0, .length = 8 * page}));
  std::optional second = or_throw(m.lock_memory({.offset = 4 * page, .length = 8 * page}));
  std::optional third = or_throw(m.lock_memory({.offset = 4 * page, .length = 8 * page}));
  BOOST_TEST(locked_bytes() == before + 12 * page);
  second.reset();
  BOOST_TEST(locked_bytes() == before + 12 * page);
  first.reset();
  BOOST_TEST(locked_bytes() == before + 8 * page);
  third.reset();
  BOOST_TEST(locked_bytes() == before);
}

BOOST_AUTO_TEST_CASE(keeps_the_memory_when_the_mapping_is_gone) {
  auto const before = locked_bytes();
  auto m = or_throw(mapping::anonymous(page));
  auto held = or_throw(m.lock_memory());
  or_throw(m.close());
  BOOST_TEST((held.bytes()[0] == std::byte{0}));
  held = or_throw(or_throw(mapping::anonymous(2 * page)).lock_memory());
  BOOST_TEST(locked_bytes() == before + 2 * page);
}

BOOST_AUTO_TEST_CASE(names_the_limit_when_it_is_reached_and_leaves_nothing_locked) {
  BOOST_TEST(found_in_child([](findings& found) {
               limit(RLIMIT_MEMLOCK, 16 * page);
               found.expect(!is_root() || become_ordinary_user(), "root cannot be given up");
               auto const m = or_throw(mapping::anonymous(64 * page));
               auto const held = m.lock_memory();
               found.expect(fails(held, std::errc::not_enough_memory), "64 pages were locked");
               found.expect(!held && held.error().message().find("RLIMIT_MEMLOCK is 65536 bytes") != std::string::npos,
                            "the message does not name the limit");
               found.expect(locked_bytes() == 0, "pages stay locked");
             }) == "");
}

BOOST_AUTO_TEST_CASE(a_failure_after_the_first_piece_unlocks_what_was_locked) {
  constexpr std::size_t size = std::size_t{200} << 20; // several pieces
  rlimit allowed{};
  if (::getrlimit(RLIMIT_MEMLOCK, &allowed) == 0 && allowed.rlim_cur < size && ::geteuid() != 0) {
    skip("an ordinary user may not lock 200 MiB here");
    return;
  }
  auto const before = locked_bytes();
  auto m = or_throw(mapping::anonymous(size, {.no_reserve = true}));
  {
    armed const table;
    seam::fail_nth(3, EAGAIN);
    BOOST_TEST((m.lock_memory(fmmap::whole, {.on_fault = true}).error() == std::errc::resource_unavailable_try_again));
  }
  BOOST_TEST(locked_bytes() == before);
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(mapping_residency)

BOOST_AUTO_TEST_CASE(tells_what_is_resident_and_what_is_not_yet_written) {
  scratch const s;
  auto f = open_rw(s.file("data", pattern(64 * page)));
  or_throw(f.sync());
  auto m = or_throw(mapping::map(f, {.access = access::read_write}));
  auto const clean = or_throw(m.residency());
  if (!clean.dirty_known || !counts_dirty_pages(f)) {
    skip(clean.dirty_known ? "a file in memory has no dirty pages" : "the system has no cachestat");
    return;
  }
  BOOST_TEST(clean.dirty_bytes == 0U);
  m.writable_bytes()[10 * page] = std::byte{1};
  m.writable_bytes()[40 * page] = std::byte{1};
  // A file system may keep several pages together, and one byte then dirties all of them.
  BOOST_TEST(or_throw(m.residency()).dirty_bytes >= 2 * page);
  or_throw(m.flush());
  BOOST_TEST(or_throw(m.residency()).dirty_bytes == 0U);
}

BOOST_AUTO_TEST_CASE(says_when_the_system_cannot_tell_what_is_dirty) {
  scratch const s;
  auto const m = or_throw(mapping::map(open_rw(s.file("data", pattern(page))), {.populate = true}));
  armed const table;
  seam::pretend_absent(fmmap::os::call::cachestat);
  auto const found = or_throw(m.residency());
  BOOST_TEST(!found.dirty_known);
  BOOST_TEST(found.resident_bytes == page);
}

BOOST_AUTO_TEST_CASE(counts_ranges_larger_than_one_call_asks_for) {
  auto m = or_throw(mapping::anonymous(10'000 * page, {.populate = true}));
  BOOST_TEST(or_throw(m.residency()).resident_bytes == 10'000 * page);
  BOOST_TEST((m.residency({.offset = 0, .length = 10'000 * page + 1}).error() == errc::out_of_range));
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(a_mapping_of_a_file_that_somebody_made_shorter)

namespace {

constexpr std::size_t left = 2 * page + 100;

// A mapping of eight pages, of which the file still has two and a hundred bytes.
struct shortened {
  scratch s;
  mapping m;

  explicit shortened(fmmap::access wanted, std::size_t reserve = 0)
      : m{or_throw(mapping::map(open_rw(s.file("data", pattern(8 * page))), {.access = wanted, .reserve = reserve}))} {
    or_throw(open_rw(s / "data").resize(left));
  }
};

constexpr std::array every_access{access::read_only, access::read_write, access::copy_on_write};

} // namespace

BOOST_AUTO_TEST_CASE(reads_zero_in_the_rest_of_the_last_page_and_raises_sigbus_past_it) {
  for (auto const wanted : every_access) {
    shortened t{wanted};
    BOOST_TEST((text_of(t.m.bytes().first(left)) == pattern(8 * page).substr(0, left)));
    BOOST_TEST((text_of(t.m.bytes().subspan(left, 3 * page - left)) == std::string(3 * page - left, '\0')));
    for (std::size_t const at : {3 * page, 5 * page + 1, 8 * page - 1}) {
      auto const* const lost = static_cast<std::byte const volatile*>(t.m.bytes().data() + at);
      BOOST_TEST(dies_of(SIGBUS, [&] { (void)*lost; }));
      if (wanted != access::read_only) {
        auto* const stored_to = static_cast<std::byte volatile*>(t.m.writable_bytes().data() + at);
        BOOST_TEST(dies_of(SIGBUS, [&] { *stored_to = std::byte{1}; }));
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(answers_every_question_and_request_without_a_signal) {
  for (auto const wanted : every_access) {
    for (std::size_t const reserve : {std::size_t{0}, 64 * page}) {
      shortened t{wanted, reserve};
      auto const problems = found_in_child([&](findings& found) {
        ::signal(SIGBUS, SIG_DFL); // the test framework's handler would go on in the child
        auto& m = t.m;
        auto const shared_file = wanted != access::copy_on_write;
        for (auto const& range :
             {fmmap::whole, byte_range{.offset = 4 * page, .length = page}, byte_range{.offset = 8 * page, .length = 0},
              byte_range{.offset = page, .length = 1}}) {
          for (int value = 0; value <= static_cast<int>(fmmap::advice::unmergeable); ++value) {
            (void)m.advise(static_cast<fmmap::advice>(value), range).has_value();
          }
          (void)m.lock_memory(range).has_value();
          (void)m.lock_memory(range, {.on_fault = true}).has_value();
          found.expect(m.residency(range).has_value(), "no residency");
          found.expect(m.share(range).has_value(), "no part can be shared");
          found.expect(m.bytes(range).has_value(), "no part can be viewed");
          for (auto const level : {fmmap::durability::none, fmmap::durability::started, fmmap::durability::written,
                                   fmmap::durability::data, fmmap::durability::all}) {
            found.expect(m.flush(range, level).has_value() == shared_file, "a flush");
            auto job = m.stage_flush(range, level);
            found.expect(job.has_value() == shared_file, "a staged flush");
            found.expect(!job || job->run().has_value(), "running a staged flush");
          }
        }
        found.expect(
            fails(m.advise(fmmap::advice::populate_read, {.offset = 4 * page, .length = 1}), std::errc::bad_address),
            "bytes that are gone were brought in");
        found.expect(!m.lock_memory({.offset = 4 * page, .length = 1}).has_value(), "bytes that are gone were locked");
        found.expect(status_field("VmLck:") == 0, "something stays locked");
        found.expect(text_of(m.bytes().first(left)) == pattern(8 * page).substr(0, left), "the bytes changed");
        found.expect(m.discard({.offset = 4 * page, .length = 2 * page}).has_value(), "a discard past the end");
        found.expect(m.discard({.offset = page, .length = 7 * page}).has_value(), "a discard across the end");
        if (shared_file) {
          found.expect(text_of(m.bytes().first(3 * page)) ==
                           pattern(8 * page).substr(0, page) + std::string(2 * page, '\0'),
                       "a discard missed its pages");
        }
        found.expect(m.protect(access::read_only).has_value(), "it cannot be protected");
        found.expect(m.protect(access::read_only, true).has_value(), "it cannot be made executable");
        found.expect(m.protect(wanted).has_value(), "the protection cannot be taken back");
        if (shared_file) {
          found.expect(m.reserve(1024 * page).has_value(), "it cannot move");
          found.expect(text_of(m.bytes().first(page)) == pattern(page), "moving changed the bytes");
        }
        found.expect(fails(m.resize(8 * page + 1),
                           reserve == 0 && !shared_file ? errc::reservation_exceeded : errc::out_of_range),
                     "it grew past the end of the file");
        found.expect(m.resize(page).has_value() && m.size() == page, "it cannot be made as short as the file");
        found.expect(fails(m.resize(4 * page), errc::out_of_range), "it grew past the shorter file");
        found.expect(m.resize(left).has_value(), "it cannot grow to the end of the file");
        found.expect(m.close().has_value(), "it cannot be closed");
      });
      BOOST_TEST_CONTEXT("access " << static_cast<int>(wanted) << " reserve " << reserve) {
        BOOST_TEST(problems == "");
      }
      BOOST_TEST(std::filesystem::file_size(t.s / "data") == left); // a discard does not make it longer
    }
  }
}

BOOST_AUTO_TEST_CASE(is_not_rewritten_where_the_file_is_gone_and_does_not_die_of_it) {
  shortened t{access::read_write};
  BOOST_TEST(!dies_of(SIGBUS, [&] { (void)t.m.rewrite().has_value(); }));
  BOOST_TEST(!dies_of(SIGBUS, [&] { (void)t.m.rewrite({.offset = 5 * page, .length = 1}).has_value(); }));
}

BOOST_AUTO_TEST_CASE(shows_the_bytes_again_when_the_file_is_long_enough_again) {
  for (auto const wanted : every_access) {
    shortened t{wanted};
    auto f = open_rw(t.s / "data");
    or_throw(f.resize(8 * page));
    BOOST_TEST((t.m.bytes()[5 * page] == std::byte{0}));
    or_throw(f.write_at(5 * page, bytes_of("again")));
    BOOST_TEST(text_of(or_throw(t.m.bytes({.offset = 5 * page, .length = 5}))) == "again");
    BOOST_TEST((t.m.bytes()[8 * page - 1] == std::byte{0}));
  }
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(a_mapping_in_a_forked_child)

BOOST_AUTO_TEST_CASE(shares_its_bytes_with_the_parent_or_has_its_own_as_its_access_says) {
  scratch const s;
  auto const path = s.file("data", pattern(2 * page));
  auto const f = open_rw(path);
  auto shared_file = or_throw(mapping::map(f, {.access = access::read_write}));
  auto cow = or_throw(mapping::map(f, {.access = access::copy_on_write, .range = {.offset = page}}));
  auto shared_memory = or_throw(mapping::anonymous(page, {.shared = true}));
  auto own_memory = or_throw(mapping::anonymous(page));
  cow.writable_bytes()[0] = own_memory.writable_bytes()[0] = std::byte{1}; // before the fork: both have it
  BOOST_TEST(found_in_child([&](findings& found) {
               found.expect(cow.bytes()[0] == std::byte{1}, "the child does not have the parent's copy");
               found.expect(own_memory.bytes()[0] == std::byte{1}, "the child does not have the parent's memory");
               for (auto* const m : {&shared_file, &cow, &shared_memory, &own_memory}) {
                 m->writable_bytes()[10] = std::byte{42};
               }
               found.expect(cow.bytes()[10] == std::byte{42} && own_memory.bytes()[10] == std::byte{42},
                            "the child does not see what it wrote");
             }) == "");
  BOOST_TEST((shared_file.bytes()[10] == std::byte{42}));
  BOOST_TEST((shared_memory.bytes()[10] == std::byte{42}));
  BOOST_TEST((text_of(cow.bytes().subspan(10, 1)) == std::string_view{pattern(2 * page)}.substr(page + 10, 1)));
  BOOST_TEST((own_memory.bytes()[10] == std::byte{0}));
  auto expected = pattern(2 * page);
  expected[10] = 42;
  BOOST_TEST((read_back(path) == expected));
}

BOOST_AUTO_TEST_CASE(goes_with_all_that_belongs_to_it_and_leaves_the_parents_as_they_are) {
  scratch const s;
  auto const path = s.file("data", pattern(16 * page));
  auto f = open_rw(path);
  std::optional m{or_throw(mapping::map(f, {.access = access::read_write, .reserve = 64 * page}))};
  std::optional memory{or_throw(mapping::anonymous(4 * page, {.shared = true}))};
  auto const locked_before = status_field("VmLck:");
  std::optional held{or_throw(m->lock_memory({.offset = 0, .length = 2 * page}))};
  std::optional held_memory{or_throw(memory->lock_memory())};
  std::optional job{or_throw(m->stage_flush({.offset = 3 * page, .length = 1}))};
  std::optional kept{or_throw(m->share({.offset = 5 * page, .length = page}))};
  m->writable_bytes()[3 * page] = std::byte{42};

  BOOST_TEST(found_in_child([&](findings& found) {
               found.expect(status_field("VmLck:") == 0, "the child has the parent's locks");
               (void)or_throw(m->lock_memory({.offset = page, .length = 4 * page})); // of its own, and gone again
               held.reset();
               held_memory.reset();
               or_throw(job->run());
               job.reset();
               or_throw(m->resize(2 * page));
               or_throw(m->close());
               m.reset();
               found.expect(text_of(kept->bytes()) == std::string_view{pattern(16 * page)}.substr(5 * page, page),
                            "what is shared went with the mapping");
               kept.reset();
               memory.reset();
               or_throw(f.close());
             }) == "");

  auto expected = pattern(16 * page);
  expected[3 * page] = 42;
  BOOST_TEST((text_of(m->bytes()) == expected));
  BOOST_TEST(status_field("VmLck:") == locked_before + 6 * page / 1024);
  BOOST_TEST((or_throw(job->run()) == fmmap::durability::data));
  BOOST_TEST((or_throw(m->flush()) == fmmap::durability::data));
  BOOST_TEST(or_throw(f.size()) == 16 * page);
  m->writable_bytes()[0] = std::byte{43};
  memory->writable_bytes()[0] = std::byte{44};
  held.reset();
  held_memory.reset();
  BOOST_TEST(status_field("VmLck:") == locked_before);
  or_throw(m->reserve(1024 * page));
  or_throw(m->close());
  BOOST_TEST((text_of(kept->bytes()) == std::string_view{expected}.substr(5 * page, page)));
  BOOST_TEST(read_back(path)[0] == 43);
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(several_threads)

BOOST_AUTO_TEST_CASE(call_const_members_of_one_mapping_at_once) {
  scratch const s;
  auto const locked_before = status_field("VmLck:");
  auto const content = pattern(64 * page);
  auto const f = open_rw(s.file("data", content));
  {
    auto const of_file = or_throw(mapping::map(f, {.access = access::read_write}));
    auto const memory = or_throw(mapping::anonymous(64 * page, {.populate = true}));
    std::atomic<int> wrong = 0;
    auto const expect = [&](bool holds) { wrong += holds ? 0 : 1; };
    auto const work = [&](std::size_t seed) {
      for (std::size_t i = 0; i < 100; ++i) {
        auto const first = (seed * 7 + i * 13) % 60;
        byte_range const range{.offset = first * page + 5, .length = 3 * page};
        for (auto const* const m : {&of_file, &memory}) {
          auto const held = m->lock_memory(range);
          expect(held.has_value());
          auto const found = m->residency(range); // all of it is locked, by this thread
          expect(found.has_value() && found->resident_bytes == 4 * page);
          expect(m->advise(i % 2 == 0 ? fmmap::advice::will_need : fmmap::advice::normal, range).has_value());
          auto const kept = m->share(range);
          expect(kept.has_value() && kept->bytes().data() == m->bytes().data() + range.offset);
          auto const copy = kept;
          expect(m->bytes(range).has_value());
          expect(fails(m->bytes({.offset = 64 * page, .length = 1}), errc::out_of_range));
          if (m == &of_file) {
            expect(m->flush(range, i % 4 == 0 ? fmmap::durability::data : fmmap::durability::started).has_value());
            auto job = m->stage_flush(range, fmmap::durability::written);
            expect(job.has_value() && job->run().has_value());
          } else {
            expect(fails(m->flush(range), errc::not_durable));
          }
        }
      }
    };
    {
      std::vector<std::jthread> threads;
      for (std::size_t seed = 0; seed < 4; ++seed) {
        threads.emplace_back(work, seed);
      }
    }
    BOOST_TEST(wrong == 0);
    BOOST_TEST((text_of(of_file.bytes()) == content));
    BOOST_TEST(status_field("VmLck:") == locked_before);
  }
  BOOST_TEST(status_field("VmLck:") == locked_before);
}

BOOST_AUTO_TEST_CASE(map_one_file_and_drop_it_last_at_once) {
  scratch const s;
  auto const content = pattern(page);
  auto const path = s.file("data", content);
  std::atomic<int> wrong = 0;
  for (int round = 0; round < 50; ++round) {
    auto f = std::make_shared<file>(or_throw(file::open(path)));
    std::vector<std::jthread> threads;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&wrong, &content, own = f]() mutable {
        auto const m = mapping::map(*own);
        own.reset();
        wrong += m.has_value() && text_of(m->bytes()) == content ? 0 : 1;
      });
    }
    f.reset();
  }
  BOOST_TEST(wrong == 0);
}

BOOST_AUTO_TEST_CASE(may_each_drop_a_share_a_lock_or_a_job_of_one_mapping_last) {
  scratch const s;
  auto const path = std::filesystem::canonical(s.file("data", pattern(4 * page))); // as the system names it
  auto const f = open_rw(path);
  for (int round = 0; round < 50; ++round) {
    auto m = or_throw(mapping::map(f, {.access = access::read_write}));
    BOOST_REQUIRE(read_back("/proc/self/maps").find(path.native()) != std::string::npos);
    std::vector<std::jthread> threads;
    threads.emplace_back([kept = or_throw(m.share())]() mutable { kept = {}; });
    threads.emplace_back([held = std::optional{or_throw(m.lock_memory())}]() mutable { held.reset(); });
    threads.emplace_back([job = std::optional{or_throw(m.stage_flush())}]() mutable { job.reset(); });
    or_throw(m.close());
  }
  BOOST_TEST(read_back("/proc/self/maps").find(path.native()) == std::string::npos); // none is left
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(an_empty_range)

BOOST_AUTO_TEST_CASE(is_valid_at_the_start_in_the_middle_and_at_the_end_of_a_mapping_and_does_nothing) {
  scratch const s;
  auto const content = pattern(4 * page + 10);
  auto const f = open_rw(s.file("data", content));
  auto of_file = or_throw(mapping::map(f, {.access = access::read_write, .range = {.offset = 5}}));
  auto cow = or_throw(mapping::map(f, {.access = access::copy_on_write, .range = {.offset = 5}}));
  auto memory = or_throw(mapping::anonymous(content.size() - 5));
  std::memcpy(memory.writable_bytes().data(), content.data() + 5, memory.size());
  auto const locked_before = status_field("VmLck:");
  for (auto* const m : {&of_file, &cow, &memory}) {
    for (std::uint64_t const offset : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{page - 5},
                                       std::uint64_t{2 * page + 7}, std::uint64_t{m->size()}}) {
      byte_range const nothing{.offset = offset, .length = 0};
      BOOST_TEST_CONTEXT((m == &of_file ? "file" : m == &cow ? "copy-on-write" : "memory") << " at " << offset) {
        {
          armed const table;
          for (int value = 0; value <= static_cast<int>(fmmap::advice::unmergeable); ++value) {
            auto const what = static_cast<fmmap::advice>(value);
            if (what != fmmap::advice::dont_need || m == &of_file) {
              BOOST_TEST(m->advise(what, nothing).has_value());
            }
          }
          BOOST_TEST(m->discard(nothing).has_value());
          BOOST_TEST(or_throw(m->residency(nothing)).resident_bytes == 0U);
          BOOST_TEST(or_throw(m->residency(nothing)).dirty_bytes == 0U);
          {
            auto const held = or_throw(m->lock_memory(nothing));
            BOOST_TEST(held.bytes().empty());
          }
          BOOST_TEST(or_throw(m->share(nothing)).bytes().empty());
          auto const view = or_throw(m->bytes(nothing));
          BOOST_TEST(view.empty());
          BOOST_TEST((view.data() == m->bytes().data() + offset));
          for (auto const level : {fmmap::durability::none, fmmap::durability::started, fmmap::durability::written,
                                   fmmap::durability::data, fmmap::durability::all}) {
            if (m == &of_file) {
              BOOST_TEST((or_throw(m->flush(nothing, level)) == level));
              BOOST_TEST((or_throw(or_throw(m->stage_flush(nothing, level)).run()) == level));
            }
          }
          BOOST_TEST(seam::calls().empty()); // nothing is asked of the system
        }
        if (m == &of_file) {
          BOOST_TEST((or_throw(m->rewrite(nothing)) == fmmap::durability::data));
        } else {
          auto const why = m == &cow ? errc::copy_on_write : errc::not_durable;
          BOOST_TEST(fails(m->flush(nothing), why));
          BOOST_TEST(fails(m->stage_flush(nothing), why));
          BOOST_TEST(fails(m->rewrite(nothing), why));
        }
        BOOST_TEST(text_of(m->bytes()) == std::string_view{content}.substr(5));
      }
    }
    byte_range const past{.offset = m->size() + 1, .length = 0};
    BOOST_TEST(fails(m->advise(fmmap::advice::normal, past), errc::out_of_range));
    BOOST_TEST(fails(m->discard(past), errc::out_of_range));
    BOOST_TEST(fails(m->residency(past), errc::out_of_range));
    BOOST_TEST(fails(m->lock_memory(past), errc::out_of_range));
    BOOST_TEST(fails(m->share(past), errc::out_of_range));
    BOOST_TEST(fails(m->bytes(past), errc::out_of_range));
    BOOST_TEST(fails(m->flush(past), errc::out_of_range));
    BOOST_TEST(fails(m->stage_flush(past), errc::out_of_range));
    BOOST_TEST(fails(m->rewrite(past), errc::out_of_range));
  }
  BOOST_TEST(status_field("VmLck:") == locked_before);
  BOOST_TEST((read_back(s / "data") == content));
}

BOOST_AUTO_TEST_CASE(of_an_empty_file_maps_with_every_option) {
  scratch const s;
  auto const f = open_rw(s.file("empty", ""));
  for (auto const wanted : {access::read_only, access::read_write, access::copy_on_write}) {
    for (std::size_t const reserve : {std::size_t{0}, std::size_t{1}, 16 * page}) {
      for (auto const pages : {fmmap::page_size::system, fmmap::page_size::prefer_huge}) {
        auto m = or_throw(mapping::map(
            f, {.access = wanted, .reserve = reserve, .populate = true, .page_size = pages, .no_reserve = true}));
        BOOST_TEST(m.is_open());
        BOOST_TEST(m.empty());
        BOOST_TEST(m.capacity() >= reserve);
        BOOST_TEST(m.writable_bytes().empty());
        BOOST_TEST(fails(m.resize(1), reserve == 0 ? errc::reservation_exceeded : errc::out_of_range));
        or_throw(m.close());
      }
    }
  }
  for (bool const shared : {false, true}) {
    for (std::size_t const reserve : {std::size_t{0}, std::size_t{1}, 16 * page}) {
      auto m = or_throw(mapping::anonymous(0, {.shared = shared, .reserve = reserve, .populate = true}));
      BOOST_TEST(m.is_open());
      BOOST_TEST(m.empty());
      BOOST_TEST(m.capacity() >= reserve);
      or_throw(m.close());
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(moving_an_object_onto_itself)

namespace {

template <class T>
void move_onto_itself(T& object) {
  auto& same = object;
  object = std::move(same);
}

} // namespace

BOOST_AUTO_TEST_CASE(changes_nothing) {
  scratch const s;
  auto const content = pattern(2 * page);
  auto const locked_before = status_field("VmLck:");

  auto f = open_rw(s.file("data", content));
  auto const descriptor = f.native_handle();
  move_onto_itself(f);
  BOOST_TEST(f.is_open());
  BOOST_TEST(f.native_handle() == descriptor);
  BOOST_TEST(or_throw(f.size()) == content.size());

  auto m = or_throw(mapping::map(f, {.access = access::read_write, .range = {.offset = 10}, .reserve = 8 * page}));
  auto const* const data = m.bytes().data();
  auto const capacity = m.capacity();
  move_onto_itself(m);
  BOOST_TEST(m.is_open());
  BOOST_TEST((m.bytes().data() == data));
  BOOST_TEST(m.capacity() == capacity);
  BOOST_TEST(m.file_offset() == 10U);
  BOOST_TEST((m.access() == access::read_write));
  BOOST_TEST((text_of(m.bytes()) == std::string_view{content}.substr(10)));

  auto held = or_throw(m.lock_memory());
  move_onto_itself(held);
  BOOST_TEST(held.bytes().size() == 2 * page);
  BOOST_TEST(status_field("VmLck:") == locked_before + 2 * page / 1024);

  auto kept = or_throw(m.share({.offset = 0, .length = 5}));
  move_onto_itself(kept);
  BOOST_TEST((text_of(kept.bytes()) == std::string_view{content}.substr(10, 5)));
  auto const& same = kept;
  kept = same;
  BOOST_TEST((text_of(kept.bytes()) == std::string_view{content}.substr(10, 5)));

  auto job = or_throw(m.stage_flush());
  move_onto_itself(job);
  BOOST_TEST((or_throw(job.run()) == fmmap::durability::data));

  for (std::size_t const map_above : {std::size_t{0}, gibibyte}) {
    auto view = or_throw(fmmap::file_view::open(s / "data", {.map_above = map_above}));
    move_onto_itself(view);
    BOOST_TEST(view.is_mapped() == (map_above == 0));
    BOOST_TEST((text_of(view.bytes()) == content));
  }
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(what_was_moved_from)

BOOST_AUTO_TEST_CASE(has_no_bytes) {
  scratch const s;
  auto const content = pattern(2 * page);
  auto const locked_before = status_field("VmLck:");
  auto const f = open_rw(s.file("data", content));
  auto const m = or_throw(mapping::map(f));

  auto held = or_throw(m.lock_memory());
  auto held_elsewhere = std::move(held);
  BOOST_TEST(held.bytes().empty());
  BOOST_TEST((held_elsewhere.bytes().data() == m.bytes().data()));
  BOOST_TEST(status_field("VmLck:") == locked_before + 2 * page / 1024);
  held = std::move(held_elsewhere);
  BOOST_TEST(held_elsewhere.bytes().empty());
  BOOST_TEST(held.bytes().size() == 2 * page);
  BOOST_TEST(status_field("VmLck:") == locked_before + 2 * page / 1024);

  auto kept = or_throw(m.share({.offset = 5, .length = 10}));
  auto kept_elsewhere = std::move(kept);
  BOOST_TEST(kept.bytes().empty());
  BOOST_TEST((text_of(kept_elsewhere.bytes()) == std::string_view{content}.substr(5, 10)));
  kept = std::move(kept_elsewhere);
  BOOST_TEST(kept_elsewhere.bytes().empty());
  BOOST_TEST((text_of(kept.bytes()) == std::string_view{content}.substr(5, 10)));

  for (std::size_t const map_above : {std::size_t{0}, gibibyte}) {
    auto view = or_throw(fmmap::file_view::open(s / "data", {.map_above = map_above}));
    auto const view_elsewhere = std::move(view);
    BOOST_TEST(view.bytes().empty());
    BOOST_TEST(!view.is_mapped());
    BOOST_TEST((text_of(view_elsewhere.bytes()) == content));
  }
}

BOOST_AUTO_TEST_SUITE_END()
