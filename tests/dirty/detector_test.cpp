// SPDX-License-Identifier: MIT OR Apache-2.0

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <iostream>
#include <iterator>
#include <memory>
#include <random>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "support/outcome.hpp"
#include "support/process.hpp"
#include "support/sandbox.hpp"
#include "support/scratch.hpp"
#include "support/seed.hpp"

import fmmap.core;
import fmmap.dirty;
import fmmap.os;

namespace dirty = fmmap::dirty;
namespace os = fmmap::os;
namespace seam = fmmap::os::seam;

using dirty::detector;
using dirty::method;
using dirty::page_range;
using fmmap::errc;
using fmmap::or_throw;
using seam::armed;

namespace {

constexpr std::array methods{method::userfaultfd, method::pagemap_scan, method::pagemap, method::compare};

auto const page = os::page_size();

using pages = std::set<std::size_t>;

// A file that is mapped privately, with address space for it to grow.
class private_map {
public:
  private_map(scratch const& s, std::size_t count, std::size_t reserve = 0)
      : path_{s / "mapped"}, length_{std::max(count, reserve) * page} {
    file_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    grow(count);
    auto* const placed = ::mmap(nullptr, length_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, file_, 0);
    if (placed == MAP_FAILED) {
      throw std::runtime_error(std::string{"mmap: "} + std::strerror(errno));
    }
    base_ = static_cast<std::byte*>(placed);
  }

  private_map(private_map const&) = delete;
  auto operator=(private_map const&) -> private_map& = delete;

  ~private_map() {
    ::munmap(base_, length_);
    ::close(file_);
  }

  void grow(std::size_t count) const {
    if (::ftruncate(file_, static_cast<off_t>(count * page)) != 0) {
      throw std::runtime_error(std::string{"ftruncate: "} + std::strerror(errno));
    }
  }

  void store(std::size_t index, std::byte value = std::byte{1}, std::size_t offset = 0) const {
    auto volatile& byte = at(index)[offset];
    byte = value;
  }

  [[nodiscard]] auto load(std::size_t index) const -> std::byte {
    auto const volatile& byte = *at(index);
    return byte;
  }

  // Makes the file equal to what is in memory.
  void write_back(std::size_t index) const {
    if (::pwrite(file_, at(index), page, static_cast<off_t>(index * page)) != static_cast<ssize_t>(page)) {
      throw std::runtime_error("pwrite");
    }
  }

  // Gives a page up, which then is the file's again.
  void drop(std::size_t index) const {
    if (::madvise(at(index), page, MADV_DONTNEED) != 0) {
      throw std::runtime_error("madvise");
    }
  }

  [[nodiscard]] auto at(std::size_t index) const -> std::byte* { return base_ + (index * page); }
  [[nodiscard]] auto range(std::size_t begin, std::size_t count) const -> page_range {
    return {.begin = at(begin), .length = count * page};
  }
  [[nodiscard]] auto file() const -> int { return file_; }

  // The pages of a list.
  [[nodiscard]] auto numbers(std::vector<page_range> const& list) const -> pages {
    pages all;
    for (auto const& run : list) {
      for (std::size_t offset = 0; offset < run.length; offset += page) {
        all.insert(static_cast<std::size_t>(run.begin - base_ + static_cast<std::ptrdiff_t>(offset)) / page);
      }
    }
    return all;
  }

private:
  std::filesystem::path path_;
  std::size_t length_;
  int file_;
  std::byte* base_;
};

auto is_ascending_and_merged(std::vector<page_range> const& list) -> bool {
  return std::ranges::adjacent_find(list, [](auto const& a, auto const& b) { return a.end() >= b.begin; }) ==
         list.end();
}

auto list_of(detector& from) -> std::vector<page_range> {
  std::vector<page_range> list;
  or_throw(from.collect(list));
  if (!is_ascending_and_merged(list)) {
    throw std::runtime_error("a list that is not in order, or not merged");
  }
  return list;
}

auto collect(detector& from, private_map const& of) -> pages { return of.numbers(list_of(from)); }

auto holds_all(pages const& some, pages const& others) -> bool { return std::ranges::includes(some, others); }

// Calls `body` with a detector of each method that this machine has.
void with_each(std::function<void(detector&)> const& body) {
  for (auto const one : methods) {
    auto const made = detector::make(one);
    if (made->kind() != one) {
      skip(std::string{"this system has no "}.append(to_string(one)));
      continue;
    }
    BOOST_TEST_CONTEXT(to_string(one)) { body(*made); }
  }
}

auto kind_of_best() -> std::string_view { return to_string(detector::make()->kind()); }

auto has(method one) -> bool { return detector::make(one)->kind() == one; }

// Writes to a page, and looks whether it is found, twice.
auto finds_writes(detector& by, private_map const& in) -> bool {
  or_throw(by.watch(in.range(0, 8)));
  for (int round = 0; round < 2; ++round) {
    in.store(3);
    if (!collect(by, in).contains(3)) {
      return false;
    }
  }
  return true;
}

// --- The model ------------------------------------------------------------------------------------------------------------

constexpr std::size_t model_pages = 256;

// What is known of the memory by having written to it.
struct model {
  std::vector<std::byte> memory = std::vector<std::byte>(model_pages * page);
  std::vector<std::byte> committed = memory;
  pages changed;    // since the last collect
  pages privates;   // since they were last dropped
  pages known;      // listed once
  std::size_t size; // pages

  auto expected_at_least(detector const& by) const -> pages const& { return by.is_incremental() ? changed : privates; }

  auto may_be_listed(detector const& by, std::size_t index) const -> bool {
    switch (by.kind()) {
    case method::userfaultfd:
      return changed.contains(index) || !known.contains(index);
    case method::compare:
      return index < size;
    default:
      return privates.contains(index);
    }
  }
};

class model_run {
public:
  model_run(detector& by, std::filesystem::path const& folder, unsigned seed)
      : by_{&by}, folder_{folder}, map_{folder_, model_pages / 4, model_pages}, random_{seed} {
    known_.size = model_pages / 4;
    or_throw(by.watch(map_.range(0, known_.size)));
    source_ = ::open((folder_.file("source", pattern(8 * page))).c_str(), O_RDONLY | O_CLOEXEC);
  }

  model_run(model_run const&) = delete;
  auto operator=(model_run const&) -> model_run& = delete;
  ~model_run() { ::close(source_); }

  void step() {
    switch (below(10)) {
    case 0:
      grow();
      break;
    case 1:
    case 2:
      drop_clean_ones();
      break;
    case 3:
    case 4:
      for (auto left = below(20); left > 0; --left) {
        (void)map_.load(below(known_.size));
      }
      break;
    case 5:
    case 6:
      read_from_file();
      break;
    default:
      for (auto left = below(20); left > 0; --left) {
        store(below(known_.size));
      }
    }
  }

  // Everything that is said of what has happened since the last time.
  void check() {
    auto const listed = collect(*by_, map_);
    BOOST_REQUIRE(holds_all(listed, known_.expected_at_least(*by_)));
    for (auto const index : listed) {
      BOOST_REQUIRE_MESSAGE(known_.may_be_listed(*by_, index), "page " << index << " is listed");
      auto const* const now = map_.at(index);
      std::copy_n(now, page, known_.committed.begin() + static_cast<std::ptrdiff_t>(index * page));
      map_.write_back(index);
      known_.known.insert(index);
    }
    BOOST_REQUIRE((text_of(known_.committed) == text_of(known_.memory)));
    known_.changed.clear();
  }

private:
  auto below(std::size_t limit) -> std::size_t { return random_() % limit; }

  void note(std::size_t index) {
    known_.changed.insert(index);
    known_.privates.insert(index);
  }

  void store(std::size_t index) {
    auto const offset = below(page);
    auto const value = static_cast<std::byte>(random_());
    map_.store(index, value, offset);
    known_.memory[(index * page) + offset] = value;
    note(index);
  }

  // By the system, into memory.
  void read_from_file() {
    auto const at = below((known_.size - 4) * page);
    auto const length = 1 + below(3 * page);
    auto const from = below(page);
    if (::pread(source_, map_.at(0) + at, length, static_cast<off_t>(from)) != static_cast<ssize_t>(length)) {
      throw std::runtime_error(std::string{"pread: "} + std::strerror(errno));
    }
    auto const bytes = pattern(8 * page);
    std::ranges::copy(bytes_of(bytes).subspan(from, length), known_.memory.begin() + static_cast<std::ptrdiff_t>(at));
    for (auto index = at / page; index <= (at + length - 1) / page; ++index) {
      note(index);
    }
  }

  void grow() {
    auto const more = std::min(below(16), model_pages - known_.size);
    map_.grow(known_.size + more);
    or_throw(by_->watch(map_.range(known_.size, more)));
    known_.size += more;
  }

  void drop_clean_ones() {
    for (auto left = below(30); left > 0; --left) {
      if (auto const index = below(known_.size); !known_.changed.contains(index)) {
        map_.drop(index);
        known_.privates.erase(index);
      }
    }
  }

  detector* by_;
  scratch folder_;
  private_map map_;
  model known_;
  std::mt19937 random_;
  int source_ = -1;
};

// The kind of a detector that is not better than this.
auto not_better_than(method limit) -> std::string_view { return to_string(detector::make(limit)->kind()); }

auto is_swapped_out(std::byte const* address) -> bool {
  auto const pagemap = ::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  std::uint64_t entry = 0;
  auto const offset = reinterpret_cast<std::uintptr_t>(address) / page * sizeof entry;
  auto const got = ::pread(pagemap, &entry, sizeof entry, static_cast<off_t>(offset));
  ::close(pagemap);
  return got == sizeof entry && (entry >> 62U & 1U) != 0;
}

} // namespace

BOOST_AUTO_TEST_SUITE(a_detector)

BOOST_AUTO_TEST_CASE(has_methods_with_names) {
  BOOST_TEST(to_string(method::userfaultfd) == "userfaultfd");
  BOOST_TEST(to_string(method::pagemap_scan) == "pagemap_scan");
  BOOST_TEST(to_string(method::pagemap) == "pagemap");
  BOOST_TEST(to_string(method::compare) == "compare");
}

BOOST_AUTO_TEST_CASE(is_not_better_than_asked_for) {
  for (auto const one : methods) {
    BOOST_TEST((detector::make(one)->kind() >= one));
  }
  BOOST_TEST(kind_of_best() == not_better_than(method::userfaultfd));
  BOOST_TEST(not_better_than(method::compare) == "compare");
  std::cout << "the best here is " << kind_of_best() << std::endl;
}

BOOST_AUTO_TEST_CASE(lists_what_a_model_says_was_changed) {
  for (auto const& folder : {std::filesystem::path{"."}, memory_folder()}) {
    with_each([&](detector& by) {
      model_run run{by, folder, seed()};
      for (int round = 0; round < 300; ++round) {
        run.step();
        if (round % 3 == 0) {
          run.check();
        }
      }
      run.check();
    });
  }
}

BOOST_AUTO_TEST_CASE(lists_every_round_of_a_model_that_it_is_asked_in) {
  for (auto const one : methods) {
    for (unsigned round = 0; round < 40; ++round) { // new detectors on new memory, asked at once
      auto const made = detector::make(one);
      model_run run{*made, memory_folder(), seed() + round};
      for (int step = 0; step < 10; ++step) {
        run.step();
        run.check();
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(lists_a_page_that_is_first_touched_by_a_write_after_a_collect) {
  with_each([](detector& by) {
    scratch const s;
    private_map const map{s, 2048};
    or_throw(by.watch(map.range(0, 2048)));
    (void)list_of(by);
    map.store(1500); // where there was no page table
    BOOST_TEST(collect(by, map).contains(1500));
    map.store(1501); // where there is one now
    BOOST_TEST(collect(by, map).contains(1501));
  });
}

BOOST_AUTO_TEST_CASE(lists_what_was_written_before_it_watched) {
  with_each([](detector& by) {
    scratch const s;
    private_map const map{s, 16};
    map.store(7);
    or_throw(by.watch(map.range(0, 16)));
    BOOST_TEST(collect(by, map).contains(7));
  });
}

BOOST_AUTO_TEST_CASE(by_userfaultfd_lists_nothing_twice) {
  auto const by = detector::make();
  if (by->kind() != method::userfaultfd) {
    return skip("this system has no userfaultfd");
  }
  scratch const s;
  private_map const map{s, 64};
  or_throw(by->watch(map.range(0, 64)));
  map.store(5);
  map.store(6);
  map.store(60);
  BOOST_TEST((list_of(*by) == std::vector{map.range(5, 2), map.range(60, 1)}));
  BOOST_TEST(list_of(*by).empty());
  (void)map.load(5);
  BOOST_TEST(list_of(*by).empty());
  map.store(6);
  BOOST_TEST((list_of(*by) == std::vector{map.range(6, 1)}));
}

BOOST_AUTO_TEST_CASE(lists_a_page_again_that_is_written_after_it_was_dropped) {
  with_each([](detector& by) {
    scratch const s;
    private_map const map{s, 64};
    or_throw(by.watch(map.range(0, 64)));
    for (int round = 0; round < 3; ++round) {
      map.store(9);
      BOOST_TEST(collect(by, map).contains(9));
      map.drop(9);
      if (by.kind() != method::compare) {
        BOOST_TEST(!collect(by, map).contains(9));
      }
      BOOST_TEST((map.load(9) == std::byte{0})); // the file's again
    }
  });
}

BOOST_AUTO_TEST_CASE(appends_to_what_is_in_the_list) {
  with_each([](detector& by) {
    scratch const s;
    private_map const map{s, 8};
    or_throw(by.watch(map.range(4, 4)));
    map.store(4);
    std::vector const before{map.range(0, 4)}; // touches what comes
    auto list = before;
    or_throw(by.collect(list));
    BOOST_REQUIRE(list.size() == 2U);
    BOOST_TEST((list.front() == before.front()));
    BOOST_TEST((list.back().begin == map.at(4)));
  });
}

BOOST_AUTO_TEST_CASE(watches_ranges_that_adjoin_as_one) {
  with_each([](detector& by) {
    scratch const s;
    private_map const map{s, 64};
    or_throw(by.watch(map.range(32, 16)));
    or_throw(by.watch(map.range(0, 16)));
    or_throw(by.watch(map.range(16, 24))); // and overlaps
    or_throw(by.watch(map.range(48, 16)));
    or_throw(by.watch(map.range(20, 0)));
    for (std::size_t index = 15; index < 50; ++index) {
      map.store(index);
    }
    armed const table;
    auto const list = list_of(by);
    BOOST_TEST(list.size() == 1U);
    BOOST_TEST(seam::calls().size() <= 3U); // of one range
    BOOST_TEST(holds_all(map.numbers(list), map.numbers({map.range(15, 35)})));
  });
}

BOOST_AUTO_TEST_CASE(watches_a_thousand_ranges_and_nothing_in_between) {
  with_each([](detector& by) {
    scratch const s;
    constexpr std::size_t count = 1000;
    private_map const map{s, 2 * count};
    std::vector<std::size_t> order;
    for (std::size_t index = 0; index < count; ++index) {
      order.push_back(2 * index);
    }
    std::ranges::shuffle(order, std::mt19937{seed()});
    for (auto const index : order) {
      or_throw(by.watch(map.range(index, 1)));
    }
    pages written;
    for (std::size_t index = 0; index < 2 * count; ++index) {
      map.store(index);
      if (index % 2 == 0) {
        written.insert(index);
      }
    }
    BOOST_TEST((collect(by, map) == written));
  });
}

BOOST_AUTO_TEST_CASE(finds_writes_in_pages_that_the_file_has_in_large_folios) {
  with_each([](detector& by) {
    scratch const s;
    constexpr std::size_t count = 4096;
    private_map const map{s, count};
    for (std::size_t index = 0; index < count; ++index) {
      map.write_back(index);
    }
    ::posix_fadvise(map.file(), 0, 0, POSIX_FADV_WILLNEED);
    ::madvise(map.at(0), count * page, MADV_HUGEPAGE);
    BOOST_TEST(::madvise(map.at(0), count * page, os::advice_value::populate_read) == 0);
    or_throw(by.watch(map.range(0, count)));
    (void)list_of(by);
    for (std::size_t round = 0; round < 3; ++round) {
      pages written;
      for (auto index = round; index < count; index += 97) {
        map.store(index);
        written.insert(index);
      }
      BOOST_TEST(holds_all(collect(by, map), written));
    }
  });
}

BOOST_AUTO_TEST_CASE(finds_more_runs_than_one_system_call_tells_of) {
  with_each([](detector& by) {
    scratch const s;
    constexpr std::size_t count = 8192;
    private_map const map{s, count};
    or_throw(by.watch(map.range(0, count)));
    for (int round = 0; round < 2; ++round) {
      pages written;
      for (std::size_t index = 0; index < count; index += 2) {
        map.store(index);
        written.insert(index);
      }
      auto const listed = collect(by, map);
      BOOST_TEST(holds_all(listed, written));
      BOOST_TEST((by.kind() == method::compare || listed == written));
    }
  });
}

BOOST_AUTO_TEST_CASE(finds_any_number_of_runs_in_memory_that_is_partly_there) {
  with_each([](detector& by) {
    std::mt19937 random{seed()};
    for (auto const present : {0U, 100U, 4096U}) {
      scratch const s{memory_folder()};
      constexpr std::size_t count = 4096;
      private_map const map{s, count};
      for (std::size_t index = 0; index < present; ++index) {
        (void)map.load(present == count ? index : random() % count);
      }
      auto const mine = detector::make(by.kind());
      or_throw(mine->watch(map.range(0, count)));
      (void)list_of(*mine);
      for (std::size_t runs = 1; runs < 150; runs += 7) {
        pages written;
        for (std::size_t run = 0; run < runs; ++run) {
          auto const index = random() % count;
          map.store(index);
          written.insert(index);
        }
        auto const listed = collect(*mine, map);
        BOOST_TEST(holds_all(listed, written));
        BOOST_TEST((!mine->is_incremental() || listed == written));
      }
    }
  });
}

BOOST_AUTO_TEST_CASE(finds_writes_around_a_change_of_protection) {
  with_each([](detector& by) {
    scratch const s;
    private_map const map{s, 16};
    or_throw(by.watch(map.range(0, 16)));
    map.store(2);
    (void)list_of(by);
    BOOST_TEST(::mprotect(map.at(0), 8 * page, PROT_READ) == 0);
    (void)list_of(by);
    BOOST_TEST(::mprotect(map.at(0), 8 * page, PROT_READ | PROT_WRITE) == 0);
    map.store(2);
    map.store(3);
    BOOST_TEST(holds_all(collect(by, map), {2, 3}));
  });
}

BOOST_AUTO_TEST_CASE(finds_pages_that_are_swapped_out) {
  with_each([](detector& by) {
    scratch const s;
    constexpr std::size_t count = 256;
    private_map const map{s, count};
    or_throw(by.watch(map.range(0, count)));
    auto const swap_out = [&] {
      ::madvise(map.at(0), count * page, os::advice_value::page_out);
      pages swapped;
      for (std::size_t index = 0; index < count; ++index) {
        if (is_swapped_out(map.at(index))) {
          swapped.insert(index);
        }
      }
      return swapped;
    };
    auto const store_all = [&] {
      for (std::size_t index = 0; index < count; ++index) {
        map.store(index);
      }
    };
    store_all();
    if (swap_out().empty()) {
      return skip("MADV_PAGEOUT swaps nothing out here; is there swap space?");
    }
    BOOST_TEST(collect(by, map).size() == count);
    if (by.is_incremental()) {
      BOOST_TEST(swap_out().size() > 0U); // what is protected goes out and comes back protected
      BOOST_TEST(list_of(by).empty());
    }
    store_all();
    (void)swap_out();
    BOOST_TEST(collect(by, map).size() == count);
  });
}

BOOST_AUTO_TEST_CASE(costs_little_for_an_address_space_that_is_hardly_used) {
  with_each([](detector& by) {
    scratch const s{memory_folder()};
    auto const whole = by.kind() == method::pagemap ? std::size_t{1} << 34U : std::size_t{1} << 40U;
    auto const count = whole / page;
    private_map const map{s, count};
    or_throw(by.watch(map.range(0, count)));
    auto const tables_before = status_field("VmPTE:"); // KiB
    for (int round = 0; round < 2; ++round) {
      pages written;
      for (std::size_t index = 0; index < 64; ++index) {
        map.store(index * (count / 64));
        written.insert(index * (count / 64));
      }
      auto const list = list_of(by);
      if (by.kind() == method::compare) {
        BOOST_TEST((list == std::vector{map.range(0, count)}));
      } else {
        BOOST_TEST((map.numbers(list) == written));
      }
    }
    BOOST_TEST(status_field("VmPTE:") - tables_before < 4096U); // 2 GiB if there were tables for all of it
  });
}

BOOST_AUTO_TEST_CASE(refuses_what_is_not_whole_pages) {
  with_each([](detector& by) {
    scratch const s;
    private_map const map{s, 4};
    BOOST_TEST(fails(by.watch({.begin = map.at(0) + 1, .length = page}), std::errc::invalid_argument));
    BOOST_TEST(fails(by.watch({.begin = map.at(0), .length = page + 1}), std::errc::invalid_argument));
    BOOST_TEST(list_of(by).empty());
  });
}

BOOST_AUTO_TEST_CASE(by_userfaultfd_wants_to_be_told_of_memory_that_was_mapped_anew) {
  auto const by = detector::make();
  if (by->kind() != method::userfaultfd) {
    return skip("this system has no userfaultfd");
  }
  scratch const s;
  constexpr std::size_t half = 1024; // with page tables of its own
  private_map const map{s, 2 * half};
  or_throw(by->watch(map.range(0, 2 * half)));
  map.store(1);
  auto* const placed =
      ::mmap(map.at(half), half * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, map.file(), 0);
  BOOST_REQUIRE((placed != MAP_FAILED));
  for (int round = 0; round < 2; ++round) { // before anything is in that memory, and after
    std::vector<page_range> list;
    BOOST_TEST(fails(by->collect(list), std::errc::operation_not_permitted));
    BOOST_TEST(list.empty());
    map.store(half);
  }
  or_throw(by->watch(map.range(half, half)));
  BOOST_TEST((collect(*by, map) == pages{1, half}));
}

BOOST_AUTO_TEST_CASE(by_userfaultfd_does_not_share_memory_with_another) {
  auto const first = detector::make();
  auto const second = detector::make();
  if (first->kind() != method::userfaultfd) {
    return skip("this system has no userfaultfd");
  }
  scratch const s;
  private_map const map{s, 4};
  or_throw(first->watch(map.range(0, 4)));
  BOOST_TEST(fails(second->watch(map.range(0, 4)), std::errc::device_or_resource_busy));
  BOOST_TEST(list_of(*second).empty());
  BOOST_TEST(finds_writes(*first, private_map{scratch{}, 8}));
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(a_detector_in_other_processes)

BOOST_AUTO_TEST_CASE(belongs_to_the_one_that_made_it) {
  with_each([](detector& by) {
    scratch const s;
    private_map const map{s, 16};
    or_throw(by.watch(map.range(0, 16)));
    map.store(1);
    (void)list_of(by);
    map.store(2);
    BOOST_TEST(found_in_child([&](findings& found) {
                 map.store(5);
                 std::vector<page_range> list;
                 found.expect(fails(by.collect(list), errc::forked), "a child collects");
                 found.expect(list.empty(), "a child has a list");
                 found.expect(fails(by.watch(map.range(0, 16)), errc::forked), "a child watches");
                 auto const mine = detector::make(by.kind());
                 found.expect(mine->kind() == by.kind(), "a child has no detector of its own");
                 found.expect(finds_writes(*mine, map), "a child's own does not work");
               }) == "");
    map.store(3);
    auto const listed = collect(by, map); // as if there had been no child
    BOOST_TEST(holds_all(listed, {2, 3}));
    BOOST_TEST((by.kind() == method::compare || !listed.contains(5)));
    BOOST_TEST((!by.is_incremental() || listed == pages{2, 3}));
  });
}

BOOST_AUTO_TEST_CASE(works_behind_a_filter_without_userfaultfd) {
  auto const expected = not_better_than(method::pagemap_scan);
  BOOST_TEST(found_in_child([&](findings& found) {
               forbid_userfaultfd();
               auto const by = detector::make();
               found.expect(to_string(by->kind()) == expected, "not the next method");
               scratch const s;
               found.expect(finds_writes(*by, private_map{s, 8}), "it does not find writes");
             }) == "");
}

BOOST_AUTO_TEST_CASE(works_behind_a_filter_without_userfaultfd_and_scans) {
  auto const expected = not_better_than(method::pagemap);
  BOOST_TEST(found_in_child([&](findings& found) {
               forbid_userfaultfd_and_scans();
               auto const by = detector::make();
               found.expect(to_string(by->kind()) == expected, "not the next method");
               scratch const s;
               found.expect(finds_writes(*by, private_map{s, 8}), "it does not find writes");
             }) == "");
}

BOOST_AUTO_TEST_CASE(works_for_an_ordinary_user) {
  if (!is_root()) {
    return skip("all of this runs as an ordinary user");
  }
  auto const best = kind_of_best();
  for (auto const dumpable : {false, true}) {
    BOOST_TEST_CONTEXT((dumpable ? "dumpable" : "not dumpable")) {
      BOOST_TEST(found_in_child([&](findings& found) {
                   scratch const s{memory_folder()};
                   private_map const map{s, 8};
                   found.expect(become_ordinary_user(), "cannot become an ordinary user");
                   ::prctl(PR_SET_DUMPABLE, dumpable ? 1 : 0);
                   auto const by = detector::make();
                   // One that is not dumpable may not open its own pagemap.
                   found.expect(to_string(by->kind()) == (dumpable ? best : "compare"), to_string(by->kind()));
                   found.expect(finds_writes(*by, map), "it does not find writes");
                   auto const source = ::open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
                   found.expect(::read(source, map.at(3), 1) == 1, "read(2) into memory that is watched");
                   found.expect(collect(*by, map).contains(3), "read(2) into memory is not found");
                 }) == "");
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(a_detector_whose_system_calls_fail)

BOOST_AUTO_TEST_CASE(is_of_the_next_method) {
  if (!has(method::userfaultfd)) {
    return skip("this system has no userfaultfd");
  }
  auto const kind_without = [](os::call which, int error, std::uint64_t times = seam::every_time,
                               std::uint64_t spared = 0) {
    armed const table;
    seam::fail(which, error, times, spared);
    return kind_of_best();
  };
  for (auto const error : {ENOSYS, EPERM, EMFILE}) {
    BOOST_TEST(kind_without(os::call::userfaultfd, error) == "pagemap_scan");
  }
  BOOST_TEST(kind_without(os::call::ioctl, EINVAL, 1) == "pagemap_scan");   // UFFDIO_API
  BOOST_TEST(kind_without(os::call::ioctl, EBUSY, 1, 1) == "pagemap_scan"); // UFFDIO_REGISTER
  BOOST_TEST(kind_without(os::call::ioctl, ENOTTY) == "pagemap");           // PAGEMAP_SCAN too
  BOOST_TEST(kind_without(os::call::openat, EACCES) == "compare");
  BOOST_TEST(kind_without(os::call::mmap, ENOMEM) == "compare");
  armed const table;
  seam::fail(os::call::ioctl, ENOTTY);
  seam::fail(os::call::pread, EPERM);
  BOOST_TEST(kind_of_best() == "compare");
}

BOOST_AUTO_TEST_CASE(works_all_the_same_and_leaves_nothing_behind) {
  scratch const s;
  std::uint64_t count = 0;
  {
    armed const table;
    (void)detector::make();
    auto const calls = seam::calls();
    count = calls.size();
    BOOST_TEST(std::ranges::count(calls, os::call::mmap) == std::ranges::count(calls, os::call::munmap));
  }
  auto const descriptors = descriptor_count();
  for (std::uint64_t nth = 1; nth <= count; ++nth) {
    for (auto const times : {std::uint64_t{1}, seam::every_time}) {
      auto const maps = maps_count();
      bool unmapping_failed = false;
      {
        armed const table;
        seam::fail_nth(nth, ENOMEM, times);
        auto const by = detector::make();
        auto const calls = seam::calls(); // the last of those counted come when the detector goes
        unmapping_failed = times != 1 || (nth <= calls.size() && calls[nth - 1] == os::call::munmap);
        seam::disarm();
        BOOST_TEST(finds_writes(*by, private_map{s, 8}));
      }
      BOOST_TEST(descriptor_count() == descriptors);
      // A sanitizer maps memory of its own.
      BOOST_TEST((sanitized || unmapping_failed || maps_count() == maps));
    }
  }
}

BOOST_AUTO_TEST_CASE(goes_on_after_an_interruption) {
  for (auto const one : methods) {
    scratch const s;
    private_map const map{s, 8};
    auto const expected = not_better_than(one);
    armed const table;
    for (auto const which : {os::call::userfaultfd, os::call::openat, os::call::ioctl, os::call::pread}) {
      seam::fail(which, EINTR, 3);
    }
    auto const by = detector::make(one);
    BOOST_TEST(to_string(by->kind()) == expected);
    for (auto const which : {os::call::ioctl, os::call::pread}) {
      seam::fail(which, EINTR, 3);
    }
    BOOST_TEST(finds_writes(*by, map));
  }
}

BOOST_AUTO_TEST_CASE(lists_as_much_after_a_collect_that_failed) {
  with_each([](detector& by) {
    scratch const s;
    constexpr std::size_t ranges = 5;
    private_map const map{s, ranges * 8};
    for (std::size_t index = 0; index < ranges; ++index) {
      or_throw(by.watch(map.range(index * 8, 4)));
    }
    auto const which = by.kind() == method::pagemap ? os::call::pread : os::call::ioctl;
    (void)list_of(by);
    for (std::uint64_t spared = 0; spared < 12; ++spared) {
      pages written;
      for (std::size_t index = 0; index < ranges; ++index) {
        map.store((index * 8) + (spared % 4));
        written.insert((index * 8) + (spared % 4));
      }
      std::vector list{map.range(7, 1)};
      bool failed = false;
      {
        armed const table;
        seam::fail(which, ENOMEM, 1, spared);
        auto const done = by.collect(list);
        failed = !done;
        BOOST_TEST((done || fails(done, std::errc::not_enough_memory)));
        BOOST_TEST((seam::injected() == 1) == failed);
        BOOST_TEST((by.kind() == method::compare || spared >= ranges || failed));
      }
      if (failed) {
        BOOST_TEST((list == std::vector{map.range(7, 1)})); // nothing was appended
        list.clear();
        map.store(33);
        written.insert(33);
        or_throw(by.collect(list));
        BOOST_TEST(is_ascending_and_merged(list));
      }
      BOOST_TEST(holds_all(map.numbers(list), written));
      if (by.is_incremental()) {
        BOOST_TEST(list_of(by).empty()); // and nothing is left over
      }
    }
  });
}

BOOST_AUTO_TEST_CASE(by_userfaultfd_takes_no_short_cut_where_the_version_is_not_known) {
  if (!has(method::userfaultfd)) {
    return skip("this system has no userfaultfd");
  }
  armed const table;
  seam::fail(os::call::uname, EPERM);
  auto const by = detector::make();
  scratch const s;
  private_map const map{s, 64};
  BOOST_TEST(finds_writes(*by, map));
  map.store(1);
  map.store(5);
  seam::arm();
  BOOST_TEST((list_of(*by) == std::vector{map.range(1, 1), map.range(5, 1)}));
  BOOST_TEST((seam::calls() == std::vector{os::call::ioctl}));
}

BOOST_AUTO_TEST_CASE(watches_nothing_after_a_watch_that_failed) {
  auto const by = detector::make();
  if (by->kind() != method::userfaultfd) {
    return skip("this system has no userfaultfd");
  }
  scratch const s;
  private_map const map{s, 8};
  map.store(1);
  {
    armed const table;
    seam::fail(os::call::ioctl, ENOMEM, 1);
    BOOST_TEST(fails(by->watch(map.range(0, 8)), std::errc::not_enough_memory));
  }
  BOOST_TEST(list_of(*by).empty());
  BOOST_TEST(finds_writes(*by, map));
}

BOOST_AUTO_TEST_CASE(reads_a_pagemap_that_comes_in_pieces) {
  auto const by = detector::make(method::pagemap);
  if (by->kind() != method::pagemap) {
    return skip("this system has no pagemap");
  }
  scratch const s;
  private_map const map{s, 64};
  or_throw(by->watch(map.range(0, 64)));
  map.store(0);
  map.store(1);
  map.store(40);
  armed const table;
  seam::shorten(os::call::pread, 8);
  BOOST_TEST((list_of(*by) == std::vector{map.range(0, 2), map.range(40, 1)}));
  BOOST_TEST(seam::calls().size() == 64U);
  seam::shorten(os::call::pread, 0);
  std::vector<page_range> list;
  BOOST_TEST(fails(by->collect(list), std::errc::io_error));
}

BOOST_AUTO_TEST_SUITE_END()
