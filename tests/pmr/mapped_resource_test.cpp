// SPDX-License-Identifier: MIT OR Apache-2.0

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <expected>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <memory_resource>
#include <new>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>

#include <sys/resource.h>
#include <unistd.h>

#include "support/outcome.hpp"
#include "support/process.hpp"
#include "support/scratch.hpp"

#include "support/small_disk.hpp"

import fmmap.core;
import fmmap.os;
import fmmap.pmr;

using fmmap::durability;
using fmmap::errc;
using fmmap::mapped_resource;
using fmmap::mapping;
using fmmap::or_throw;
using fmmap::os::call;
namespace seam = fmmap::os::seam;

namespace {

constexpr std::size_t mib = std::size_t{1} << 20;

auto is_in(std::span<std::byte const> all, void const* begin, std::size_t size) -> bool {
  auto const* const at = static_cast<std::byte const*>(begin);
  return at >= all.data() && at + size <= all.data() + all.size();
}

// Why an allocation fails; nothing when it does not.
auto refusal_of(std::pmr::memory_resource& resource, std::size_t size, std::size_t alignment = 16)
    -> std::optional<fmmap::error> {
  try {
    resource.deallocate(resource.allocate(size, alignment), size, alignment);
  } catch (fmmap::allocation_error const& refused) {
    return refused.why();
  }
  return {};
}

} // namespace

BOOST_AUTO_TEST_SUITE(a_mapped_resource)

BOOST_AUTO_TEST_CASE(over_a_created_file_leaves_it_and_over_one_without_a_name_leaves_nothing) {
  scratch const folder;
  {
    auto const created = or_throw(mapped_resource::create(folder / "data"));
    auto const temporary = or_throw(mapped_resource::temporary(folder.folder()));
    for (auto* const each : {created.get(), temporary.get()}) {
      std::pmr::vector<int> numbers{{1, 2, 3}, each};
      BOOST_TEST(is_in(each->storage(), numbers.data(), 12));
    }
    BOOST_TEST(created->path() == (folder / "data").native());
  }
  BOOST_TEST(std::distance(std::filesystem::directory_iterator{folder.folder()}, {}) == 1);
  BOOST_TEST(std::filesystem::file_size(folder / "data") == 2 * mib);
}

BOOST_AUTO_TEST_CASE(over_a_file_has_it_for_storage_whatever_was_in_it) {
  scratch const folder;
  auto const path = folder.file("data", std::string(100'000, 'x'));
  auto const resource = or_throw(mapped_resource::open(path));
  BOOST_TEST(resource->stats().free_bytes == 102'400U); // whole pages
  BOOST_TEST(resource->storage().size() == 102'400U);
  BOOST_TEST(std::filesystem::file_size(path) == 102'400U);
  auto* const block = resource->allocate(4096);
  BOOST_TEST(is_in(resource->storage(), block, 4096));
}

BOOST_AUTO_TEST_CASE(is_refused_where_the_options_cannot_be_met) {
  scratch const folder;
  auto const path = folder.file("data", std::string(100'000, 'x'));
  BOOST_TEST(fails(mapped_resource::temporary(folder.folder(), {.reserve = 0}), errc::invalid_options));
  BOOST_TEST(fails(mapped_resource::create(folder / "new", {.reserve = mib, .size = 2 * mib}), errc::invalid_options));
  BOOST_TEST(fails(mapped_resource::open(path, {.reserve = 8192}), errc::invalid_options));
  BOOST_TEST(std::filesystem::file_size(path) == 100'000U);
  BOOST_TEST(fails(mapped_resource::open(folder / "missing"), std::errc::no_such_file_or_directory));
  BOOST_TEST(fails(mapped_resource::create(path), std::errc::file_exists));
  BOOST_TEST(fails(mapped_resource::temporary(folder / "missing"), std::errc::no_such_file_or_directory));
  BOOST_TEST(fails(mapped_resource::over({}), errc::closed));
  auto const file = or_throw(fmmap::file::open(path));
  BOOST_TEST(fails(mapped_resource::over(or_throw(mapping::map(file))), errc::read_only));
}

BOOST_AUTO_TEST_CASE(that_cannot_be_made_leaves_no_file) {
  scratch const folder;
  auto const resource = mapped_resource::create(folder / "new", {.reserve = std::size_t{1} << 62});
  BOOST_TEST(!resource.has_value());
  BOOST_TEST(std::filesystem::is_empty(folder.folder()));
}

BOOST_AUTO_TEST_CASE(grows_without_moving_up_to_its_reserve) {
  scratch const folder;
  auto const resource = or_throw(mapped_resource::temporary(folder.folder(), {.reserve = 16 * mib}));
  auto const* const origin = resource->storage().data();
  std::vector<void*> blocks;
  while (blocks.size() < 100) {
    try {
      blocks.push_back(resource->allocate(mib));
    } catch (fmmap::allocation_error const& refused) {
      BOOST_TEST((refused.why() == errc::reservation_exceeded));
      BOOST_TEST(std::string_view{refused.what()} == refused.why().message());
      break;
    }
  }
  BOOST_TEST(blocks.size() == 16U);
  BOOST_TEST(resource->storage().data() == origin);
  BOOST_TEST(resource->storage().size() == 16 * mib);
  for (auto* const block : blocks) {
    resource->deallocate(block, mib);
  }
  auto const stats = resource->stats();
  BOOST_TEST(stats.used_bytes == 0U);
  BOOST_TEST(stats.largest_free == 16 * mib);
  BOOST_TEST(stats.reserved_bytes == 16 * mib);
  BOOST_TEST(stats.peak_bytes == 16 * mib);
}

BOOST_AUTO_TEST_CASE(has_blocks_behind_what_it_hands_out) {
  scratch const folder;
  auto const resource = or_throw(mapped_resource::create(folder / "data"));
  (void)resource->allocate(8 * mib);
  BOOST_TEST(blocks_of(folder / "data") >= 8 * mib);
}

BOOST_AUTO_TEST_CASE(aligns_as_asked_from_one_byte_to_two_mebibytes) {
  auto const anonymous = or_throw(mapped_resource::anonymous());
  auto const shifted = or_throw(mapped_resource::over(or_throw(mapping::anonymous(64 * mib))));
  for (auto* const resource : {anonymous.get(), shifted.get()}) {
    for (std::size_t alignment = 1; alignment <= 2 * mib; alignment *= 2) {
      std::vector<void*> blocks;
      for (std::size_t const size :
           {std::size_t{0}, std::size_t{1}, std::size_t{100}, std::size_t{5000}, std::size_t{70'000}}) {
        blocks.push_back(resource->allocate(size, alignment));
        BOOST_TEST_REQUIRE(reinterpret_cast<std::uintptr_t>(blocks.back()) % alignment == 0U);
        resource->deallocate(blocks.back(), size, alignment);
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(gives_objects_of_no_size_addresses_of_their_own) {
  auto const resource = or_throw(mapped_resource::anonymous());
  auto* const a = resource->allocate(0);
  auto* const b = resource->allocate(0);
  BOOST_TEST(a != nullptr);
  BOOST_TEST(a != b);
  resource->deallocate(a, 0);
  resource->deallocate(b, 0);
}

BOOST_AUTO_TEST_CASE(refuses_sizes_that_cannot_be) {
  auto const resource = or_throw(mapped_resource::anonymous({.reserve = 64 * mib}));
  for (auto const size : {64 * mib + 1, SIZE_MAX / 2, SIZE_MAX - 4095, SIZE_MAX}) {
    auto const refusal = refusal_of(*resource, size);
    BOOST_TEST_REQUIRE(refusal.has_value());
    BOOST_TEST((*refusal == errc::reservation_exceeded));
  }
  std::pmr::vector<int> numbers{resource.get()};
  BOOST_CHECK_THROW(numbers.resize(100 * mib), std::bad_alloc);
  BOOST_TEST(!refusal_of(*resource, 60 * mib).has_value());
}

BOOST_AUTO_TEST_CASE(over_part_of_a_file_uses_the_whole_pages_of_it) {
  scratch const folder;
  auto const path = folder.file("data", std::string(5 * 4096, 'x'));
  auto const file = or_throw(fmmap::file::open(path, {.access = fmmap::access::read_write}));
  {
    auto part = or_throw(
        mapping::map(file, {.access = fmmap::access::read_write, .range = {.offset = 100, .length = 4 * 4096}}));
    auto const resource = or_throw(mapped_resource::over(std::move(part)));
    BOOST_TEST(resource->stats().free_bytes == 3 * 4096U);
    auto* const block = static_cast<std::byte*>(resource->allocate(3 * 4096));
    std::fill_n(block, 3 * 4096, std::byte{'y'});
    BOOST_TEST((refusal_of(*resource, 1).value() == errc::reservation_exceeded));
    BOOST_TEST((or_throw(resource->flush(block, 3 * 4096)) == durability::data));
    BOOST_TEST(fails(resource->flush(block, 3 * 4096 + 1), errc::out_of_range));
  }
  auto const content = read_back(path);
  BOOST_TEST(content == std::string(4096, 'x') + std::string(3 * 4096, 'y') + std::string(4096, 'x'));
}

BOOST_AUTO_TEST_CASE(over_a_mapping_without_a_whole_page_is_refused) {
  scratch const folder;
  auto const file =
      or_throw(fmmap::file::open(folder.file("data", std::string(100, 'x')), {.access = fmmap::access::read_write}));
  BOOST_TEST(fails(mapped_resource::over(or_throw(mapping::map(file, {.access = fmmap::access::read_write}))),
                   errc::invalid_options));
  BOOST_TEST(fails(mapped_resource::over(or_throw(mapping::anonymous(0))), errc::invalid_options));
}

BOOST_AUTO_TEST_CASE(over_memory_with_a_reserve_grows_in_it) {
  auto const resource = or_throw(mapped_resource::over(or_throw(mapping::anonymous(4096, {.reserve = 8 * mib}))));
  BOOST_TEST(!refusal_of(*resource, 8 * mib).has_value());
  BOOST_TEST((refusal_of(*resource, 8 * mib + 1).value() == errc::reservation_exceeded));
}

BOOST_AUTO_TEST_CASE(deallocates_everything_at_once) {
  auto const resource = or_throw(mapped_resource::anonymous());
  std::vector<void*> blocks;
  for (int i = 0; i < 1000; ++i) {
    blocks.push_back(resource->allocate(static_cast<std::size_t>(i) * 10));
  }
  auto const size = resource->storage().size();
  resource->release();
  BOOST_TEST(resource->stats().used_bytes == 0U);
  BOOST_TEST(resource->storage().size() == size);
  std::vector<void*> again;
  for (int i = 0; i < 1000; ++i) {
    again.push_back(resource->allocate(static_cast<std::size_t>(i) * 10));
  }
  BOOST_TEST(resource->storage().size() == size);
}

BOOST_AUTO_TEST_CASE(gives_blocks_of_the_file_back_and_takes_them_again) {
  scratch const folder;
  auto const path = folder / "data";
  auto const resource = or_throw(mapped_resource::create(path, {.discard_from = 4 * mib}));
  auto* const large = resource->allocate(8 * mib);
  std::memset(large, 1, 8 * mib);
  auto* const small = resource->allocate(100);
  auto const before = blocks_of(path);
  resource->deallocate(large, 8 * mib); // at once, as it is as large as that
  BOOST_TEST(blocks_of(path) + 8 * mib <= before);
  auto* const again = static_cast<std::byte*>(resource->allocate(2 * mib));
  BOOST_TEST(again == large);
  BOOST_TEST(std::ranges::all_of(std::span{again, 2 * mib}, [](std::byte b) { return b == std::byte{0}; }));
  resource->deallocate(again, 2 * mib);
  BOOST_TEST(blocks_of(path) >= 2 * mib);
  resource->deallocate(small, 100);
  BOOST_TEST(or_throw(resource->trim()) > 2 * mib);
  BOOST_TEST(blocks_of(path) < 100'000U); // the file system's own
  BOOST_TEST(resource->stats().used_bytes == 0U);
  std::memset(resource->allocate(8 * mib), 1, 8 * mib);
  BOOST_TEST(blocks_of(path) >= 8 * mib);
}

BOOST_AUTO_TEST_CASE(is_closed_with_a_report) {
  scratch const folder;
  auto const resource = or_throw(mapped_resource::create(folder / "data"));
  auto* const block = resource->allocate(100);
  or_throw(resource->close());
  BOOST_TEST((refusal_of(*resource, 100).value() == errc::closed));
  resource->deallocate(block, 100);
  BOOST_TEST(fails(resource->flush(), errc::closed));
  BOOST_TEST(fails(resource->flush(block, 100), errc::closed));
  BOOST_TEST(resource->stats().used_bytes + resource->stats().free_bytes + resource->stats().reserved_bytes == 0U);
  BOOST_TEST(fails(resource->close(), errc::closed));
  BOOST_TEST(fails(resource->trim(), errc::closed));
  BOOST_TEST(resource->storage().empty());
}

BOOST_AUTO_TEST_CASE(that_is_closed_and_released_bears_the_end_of_its_containers) {
  auto const resource = or_throw(mapped_resource::anonymous({.checked = true}));
  std::pmr::string const text{100, 'x', resource.get()};
  or_throw(resource->close());
  resource->release();
}

BOOST_AUTO_TEST_CASE(fits_an_aligned_object_exactly) {
  auto const resource = or_throw(mapped_resource::anonymous({.reserve = 4 * mib}));
  BOOST_TEST(!refusal_of(*resource, 4 * mib, 2 * mib).has_value());
  auto const refusal = refusal_of(*resource, 4 * mib + 1, 2 * mib);
  BOOST_TEST_REQUIRE(refusal.has_value());
  BOOST_TEST(refusal->message().find("4194305 bytes were asked for, and 4194304 are reserved in all") !=
             std::string::npos);
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(a_flush)

BOOST_AUTO_TEST_CASE(reaches_the_file) {
  scratch const folder;
  auto const resource = or_throw(mapped_resource::create(folder / "data"));
  std::pmr::string text{"text that is too long to be kept in the object itself", resource.get()};
  BOOST_TEST((or_throw(resource->flush()) == durability::all));
  BOOST_TEST((or_throw(resource->flush(durability::data)) == durability::data));
  BOOST_TEST((or_throw(resource->flush(text.data(), text.size())) == durability::data));
  BOOST_TEST(read_back(folder / "data").find(text) != std::string::npos);
}

BOOST_AUTO_TEST_CASE(is_an_error_without_a_file) {
  auto const resource = or_throw(mapped_resource::anonymous());
  auto* const block = resource->allocate(100);
  BOOST_TEST(fails(resource->flush(), errc::not_durable));
  BOOST_TEST(fails(resource->flush(block, 100), errc::not_durable));
  BOOST_TEST(fails(resource->stage_flush(), errc::not_durable));
  BOOST_TEST(fails(resource->rewrite(), errc::not_durable));
}

BOOST_AUTO_TEST_CASE(of_bytes_elsewhere_is_refused) {
  scratch const folder;
  auto const resource = or_throw(mapped_resource::temporary(folder.folder(), {.size = mib}));
  int elsewhere = 0;
  auto const all = resource->storage();
  BOOST_TEST(fails(resource->flush(&elsewhere, sizeof elsewhere), errc::out_of_range));
  BOOST_TEST(fails(resource->flush(all.data(), all.size() + 1), errc::out_of_range));
  BOOST_TEST(fails(resource->flush(all.data() + 1, SIZE_MAX), errc::out_of_range));
  BOOST_TEST(resource->flush(all.data() + all.size(), 0).has_value());
  BOOST_TEST(resource->flush(nullptr, 0).has_value()); // of an empty vector
}

BOOST_AUTO_TEST_CASE(that_fails_goes_on_failing_until_a_rewrite) {
  scratch const folder;
  auto const resource = or_throw(mapped_resource::temporary(folder.folder()));
  std::pmr::vector<int> numbers{{1, 2, 3}, resource.get()};
  {
    seam::armed const table;
    seam::fail(call::fsync, EIO, 1);
    BOOST_TEST(fails(resource->flush(), std::errc::io_error));
  }
  BOOST_TEST(fails(resource->flush(), std::errc::io_error));
  BOOST_TEST(fails(resource->flush(numbers.data(), 12), std::errc::io_error));
  BOOST_TEST(fails(resource->stage_flush(), std::errc::io_error));
  BOOST_TEST(!refusal_of(*resource, 100).has_value()); // memory is memory
  or_throw(resource->rewrite());
  BOOST_TEST(resource->flush().has_value());
  BOOST_TEST(numbers[2] == 3);
}

BOOST_AUTO_TEST_CASE(is_staged_and_runs_after_the_resource_is_gone) {
  scratch const folder;
  auto resource = or_throw(mapped_resource::create(folder / "data"));
  std::memset(resource->allocate(100), 'z', 100);
  auto job = or_throw(resource->stage_flush());
  resource.reset();
  std::jthread{[&] { BOOST_TEST((or_throw(job.run()) == durability::all)); }}.join();
}

BOOST_AUTO_TEST_CASE(goes_on_while_others_allocate) {
  scratch const folder;
  auto const resource = or_throw(mapped_resource::temporary(folder.folder()));
  std::jthread const other{[&] {
    std::pmr::vector<std::pmr::string> words{resource.get()};
    for (int i = 0; i < 20'000; ++i) {
      words.emplace_back(200, 'x');
    }
  }};
  for (int i = 0; i < 20; ++i) {
    or_throw(resource->flush());
    (void)resource->stats();
    (void)resource->storage();
  }
}

BOOST_AUTO_TEST_CASE(is_nothing_that_a_destructor_does) {
  scratch const folder;
  auto resource = or_throw(mapped_resource::create(folder / "data"));
  std::memset(resource->allocate(100), 'z', 100);
  seam::armed const table;
  resource.reset();
  auto const calls = seam::calls();
  for (auto const sync : {call::fsync, call::fdatasync, call::msync, call::sync_file_range}) {
    BOOST_TEST(std::ranges::count(calls, sync) == 0);
  }
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(where_there_is_no_more)

BOOST_AUTO_TEST_CASE(a_full_disk_is_an_error_and_not_a_signal) {
  on_small_disks([](findings& found, std::filesystem::path const& disk) {
    auto const resource = or_throw(mapped_resource::create(disk / "data"));
    std::pmr::vector<std::pmr::string> words{resource.get()};
    std::optional<fmmap::error> refusal;
    try {
      while (true) {
        words.emplace_back(1000, 'x');
      }
    } catch (fmmap::allocation_error const& full) {
      refusal = full.why();
    }
    found.expect(refusal && *refusal == std::errc::no_space_on_device, "it is another error");
    found.expect(words.size() > 3000, "there was more space");
    found.expect(std::ranges::all_of(words, [](auto const& word) { return word == std::pmr::string(1000, 'x'); }),
                 "what was there has changed");
    words.clear();
    words.shrink_to_fit();
    for (int i = 0; i < 100; ++i) {
      words.emplace_back(1000, 'y');
    }
    found.expect(resource->flush().has_value(), "it cannot be flushed");
  });
}

BOOST_AUTO_TEST_CASE(what_was_given_back_to_a_disk_that_others_have_filled_is_an_error_too) {
  on_small_disks([](findings& found, std::filesystem::path const& disk) {
    auto const resource = or_throw(mapped_resource::create(disk / "data", {.discard_from = mib}));
    auto* const kept = resource->allocate(100);
    auto* const large = resource->allocate(3 * mib);
    std::memset(large, 1, 3 * mib);
    resource->deallocate(large, 3 * mib);
    fill_to_the_last_block(disk);
    auto const refusal = refusal_of(*resource, 3 * mib);
    found.expect(refusal && *refusal == std::errc::no_space_on_device, "it is no error, or another one");
    found.expect(!refusal_of(*resource, 100), "what has blocks cannot be allocated");
    std::filesystem::remove(disk / "ballast");
    found.expect(!refusal_of(*resource, 3 * mib), "it does not go on when there is space again");
    resource->deallocate(kept, 100);
  });
}

BOOST_AUTO_TEST_CASE(a_hole_of_somebody_elses_mapping_on_a_full_disk_is_an_error_too) {
  on_small_disks([](findings& found, std::filesystem::path const& disk) {
    auto sparse = or_throw(fmmap::file::create_new(disk / "sparse"));
    or_throw(sparse.write_at(0, bytes_of(std::string(mib, 'x'))));
    or_throw(sparse.resize(4 * mib));
    fill_to_the_last_block(disk);
    auto const resource =
        or_throw(mapped_resource::over(or_throw(mapping::map(sparse, {.access = fmmap::access::read_write}))));
    auto* const with_blocks = resource->allocate(mib);
    std::memset(with_blocks, 1, mib);
    auto const refusal = refusal_of(*resource, 2 * mib);
    found.expect(refusal && *refusal == std::errc::no_space_on_device, "it is no error, or another one");
    std::filesystem::remove(disk / "ballast");
    found.expect(!refusal_of(*resource, 2 * mib), "it does not go on when there is space again");
  });
}

BOOST_AUTO_TEST_CASE(a_file_that_cannot_be_mapped_keeps_its_size) {
  scratch const folder;
  auto const path = folder.file("data", std::string(5000, 'x'));
  auto const refused = mapped_resource::open(path, {.reserve = std::size_t{1} << 47, .size = mib});
  BOOST_REQUIRE(fails(refused, std::errc::not_enough_memory));
  BOOST_TEST(refused.error().path() == path.string());
  BOOST_TEST(refused.error().message().contains("a reserve of 140737488355328 bytes"));
  BOOST_TEST(read_back(path) == std::string(5000, 'x'));
  auto const without_file = mapped_resource::anonymous({.reserve = std::size_t{1} << 47});
  BOOST_REQUIRE(fails(without_file, std::errc::not_enough_memory));
  BOOST_TEST(without_file.error().message().contains("a reserve of 140737488355328 bytes"));
}

BOOST_AUTO_TEST_CASE(a_limit_of_address_space_is_an_error) {
  if (sanitized) {
    skip("a sanitizer takes most of the address space");
    return;
  }
  scratch const folder;
  BOOST_TEST(found_in_child([&](findings& found) {
               limit(RLIMIT_AS, std::size_t{4} << 30);
               found.expect(
                   fails(mapped_resource::anonymous({.reserve = std::size_t{64} << 30}), std::errc::not_enough_memory),
                   "it reserves more than there may be");
               found.expect(fails(mapped_resource::temporary(folder.folder()), std::errc::not_enough_memory),
                            "it reserves more than there may be, in a file");
               auto const small = or_throw(mapped_resource::anonymous({.reserve = std::size_t{1} << 30}));
               found.expect(!refusal_of(*small, 100 * mib), "it cannot allocate");
             }) == "");
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(misuse)

// The message of a program that was ended, from its standard error.
auto last_words(scratch const& folder, auto wrong) -> std::string {
  auto const path = folder / "stderr";
  auto const died = dies_of(SIGABRT, [&] {
    if (std::freopen(path.c_str(), "w", stderr) != nullptr) {
      auto const resource = or_throw(mapped_resource::anonymous({.checked = true}));
      wrong(*resource);
    }
  });
  return died ? read_back(path) : "it did not die";
}

BOOST_AUTO_TEST_CASE(is_named_where_it_is_looked_for) {
  scratch const folder;
  auto const says = [&](auto wrong, std::string_view what) {
    auto const words = last_words(folder, wrong);
    BOOST_TEST_INFO(words);
    return words.starts_with("fmmap: deallocate(0x") && words.find(what) != std::string::npos;
  };
  BOOST_TEST(says(
      [](mapped_resource& resource) {
        auto* const block = resource.allocate(100);
        resource.deallocate(block, 100);
        resource.deallocate(block, 100);
      },
      "deallocated twice"));
  BOOST_TEST(says([](mapped_resource& resource) { resource.deallocate(resource.allocate(100), 101); },
                  "allocated with size 100 and alignment 16"));
  BOOST_TEST(says([](mapped_resource& resource) { resource.deallocate(resource.allocate(64, 64), 64, 16); },
                  "allocated with size 64 and alignment 64"));
  BOOST_TEST(says(
      [](mapped_resource& resource) {
        alignas(16) static char elsewhere[64];
        resource.deallocate(elsewhere, 64);
      },
      "never allocated here"));
}

BOOST_AUTO_TEST_SUITE_END()
