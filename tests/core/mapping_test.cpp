// SPDX-License-Identifier: MIT OR Apache-2.0

#include <array>
#include <cerrno>
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
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
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
  or_throw(f.resize(far + 1000));
  auto m = or_throw(mapping::map(f, {.access = access::read_write, .range = {.offset = far, .length = 1000}}));
  m.writable_bytes()[999] = std::byte{7};
  std::array<std::byte, 1> last{};
  BOOST_TEST(or_throw(f.read_at(far + 999, last)) == 1U);
  BOOST_TEST((last[0] == std::byte{7}));
  BOOST_TEST((or_throw(m.flush({.offset = 990, .length = 10})) == fmmap::durability::data));
  BOOST_TEST((or_throw(m.advise(fmmap::advice::will_need)), true));
  or_throw(m.discard(fmmap::whole));
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
#if defined(__x86_64__)
  scratch const s;
  auto const f = or_throw(file::open(s.file("code", std::string_view{"\xb8\x2a\0\0\0\xc3", 6}))); // mov eax, 42; ret
  auto const m = or_throw(mapping::map(f, {.executable = true}));
  auto const function = reinterpret_cast<int (*)()>(address_of(m.bytes().data()));
  BOOST_TEST(function() == 42);
#else
  skip("the code is for x86-64");
#endif
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

namespace {

// Whether the memory at `address` has this flag of proc_pid_smaps(5).
auto has_flag(std::byte const* address, std::string_view flag) -> bool {
  std::ifstream maps{"/proc/self/smaps"};
  auto inside = false;
  for (std::string line; std::getline(maps, line);) {
    std::uint64_t begin = 0;
    std::uint64_t end = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx ", &begin, &end) == 2) {
      auto const wanted = reinterpret_cast<std::uintptr_t>(address);
      inside = begin <= wanted && wanted < end;
    } else if (inside && line.starts_with("VmFlags:")) {
      return line.find(" " + std::string{flag}) != std::string::npos;
    }
  }
  return false;
}

} // namespace

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
    BOOST_TEST(has_flag(at, "dc"));
    BOOST_TEST(!has_flag(at + 4 * page, "dc"));
    BOOST_TEST(has_flag(at + 2 * page, "dd"));
    BOOST_TEST(!has_flag(at + 3 * page, "dd"));
  }
  auto const locked = or_throw(mapped.lock_memory());
  BOOST_TEST(fails(mapped.reserve(2 * gibibyte), errc::in_use));
}

BOOST_AUTO_TEST_CASE(huge_pages_are_preferred_for_what_is_added_too) {
  auto m = or_throw(mapping::anonymous(page, {.reserve = 16 * huge, .page_size = fmmap::page_size::prefer_huge}));
  if (!has_flag(m.bytes().data(), "hg")) {
    skip("the system has no transparent huge pages");
    return;
  }
  or_throw(m.resize(8 * huge));
  BOOST_TEST(has_flag(m.bytes().data() + 7 * huge, "hg"));
  or_throw(m.resize(huge));
  or_throw(m.resize(8 * huge));
  BOOST_TEST(has_flag(m.bytes().data() + 7 * huge, "hg"));
  or_throw(m.reserve(32 * huge));
  or_throw(m.resize(32 * huge));
  BOOST_TEST(has_flag(m.bytes().data() + 31 * huge, "hg"));
  auto const stack = or_throw(mapping::anonymous(8 * page, {.stack = true}));
  BOOST_TEST(has_flag(stack.bytes().data(), "nh"));
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
  BOOST_TEST(refused.error().message().ends_with("this system or this kind of mapping does not know it"));
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
  or_throw(m.protect(access::read_only)); // the bytes are the file's, which stays writable
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
  if (!clean.dirty_known) {
    skip("the system has no cachestat");
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
