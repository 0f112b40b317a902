// SPDX-License-Identifier: MIT OR Apache-2.0

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <expected>
#include <fstream>
#include <functional>
#include <iostream>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>

#include <sys/mman.h>
#include <sys/resource.h>
#include <ucontext.h>
#include <unistd.h>

#include "support/outcome.hpp"
#include "support/process.hpp"

import fmmap.core;
import fmmap.os;
import fmmap.stack;

using fmmap::errc;
using fmmap::or_throw;
using fmmap::stack;
using fmmap::stack_allocator;
using fmmap::stack_guard;
using fmmap::stack_options;
using fmmap::stack_pool;
using fmmap::os::call;
namespace seam = fmmap::os::seam;
using seam::armed;

namespace {

constexpr std::size_t page = 4096;
constexpr std::size_t mib = std::size_t{1} << 20;

auto pool_of(stack_options options) -> stack_pool { return or_throw(stack_pool::create(options)); }

auto small_pool(std::size_t capacity = 8, stack_guard guard = stack_guard::low) -> stack_pool {
  return pool_of({.stack_size = 64 * 1024, .capacity = capacity, .guard = guard});
}

auto bytes_of(stack const& one) -> std::span<std::byte> { return {one.bottom(), one.size()}; }

auto is_zero(std::span<std::byte const> bytes) -> bool {
  return std::ranges::all_of(bytes, [](std::byte one) { return one == std::byte{}; });
}

stack_pool const* watched = nullptr;

// Whose slot an access is in that is SIGSEGV; nothing when it is none, or in no slot.
void exit_with_slot(int /*signal*/, siginfo_t* info, void* /*context*/) {
  auto const slot = watched->slot_of(info->si_addr);
  ::_exit(slot && *slot < 100 ? static_cast<int>(*slot) : 101);
}

constexpr int no_fault = 102;

// What `exit_with_slot` says of what `body` does, in a child.
auto faulting_slot(stack_pool const& pool, std::function<void()> const& body) -> int {
  return end_of(start_child([&] {
    watched = &pool;
    static std::array<std::byte, 64 * 1024> handlers_stack;
    stack_t const alternate{.ss_sp = handlers_stack.data(), .ss_flags = 0, .ss_size = handlers_stack.size()};
    ::sigaltstack(&alternate, nullptr);
    struct sigaction action{};
    action.sa_sigaction = exit_with_slot;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    ::sigaction(SIGSEGV, &action, nullptr);
    body();
    return no_fault;
  }));
}

void store(std::byte* at) { *static_cast<std::byte volatile*>(at) = std::byte{1}; }

std::function<void()> to_run;
void run_it() { to_run(); }

// Runs `body` on a stack.
void run_on(stack const& one, std::function<void()> body) {
  to_run = std::move(body);
  ucontext_t here{};
  ucontext_t there{};
  ::getcontext(&there);
  there.uc_stack.ss_sp = one.bottom();
  there.uc_stack.ss_size = one.size();
  there.uc_link = &here;
  ::makecontext(&there, run_it, 0);
  ::swapcontext(&here, &there);
}

// NOLINTNEXTLINE(misc-no-recursion): that is what it is for
[[gnu::noinline]] auto deeper(std::size_t depth) -> std::size_t {
  std::array<std::size_t volatile, 64> frame{};
  frame[depth % frame.size()] = depth;
  return depth == 0 ? 0 : deeper(depth - 1) + frame[depth % frame.size()];
}

// Touches the far end of a frame of 1 MiB first.
[[gnu::noinline]] void with_a_large_frame() {
  std::array<std::byte volatile, mib> frame;
  frame[0] = std::byte{1};
  asm volatile("" ::"r"(frame.data()) : "memory");
}

} // namespace

BOOST_AUTO_TEST_SUITE(a_stack)

BOOST_AUTO_TEST_CASE(is_memory_between_guards_and_is_nobody_elses) {
  for (auto const guard : {stack_guard::low, stack_guard::both}) {
    auto pool = small_pool(8, guard);
    std::vector<stack> all;
    for (std::size_t i = 0; i < 8; ++i) {
      all.push_back(or_throw(pool.allocate()));
      BOOST_TEST(all.back().size() == 64 * 1024);
      BOOST_TEST(all.back().top() - all.back().bottom() == 64 * 1024);
      BOOST_TEST(reinterpret_cast<std::uintptr_t>(all.back().bottom()) % page == 0U);
      std::ranges::fill(bytes_of(all.back()), static_cast<std::byte>(i + 1));
    }
    for (std::size_t i = 0; i < 8; ++i) {
      BOOST_TEST(
          std::ranges::all_of(bytes_of(all[i]), [&](std::byte one) { return one == static_cast<std::byte>(i + 1); }));
      BOOST_TEST(pool.slot_of(all[i].bottom()).value() == all[i].slot());
      BOOST_TEST(pool.slot_of(all[i].top() - 1).value() == all[i].slot());
      BOOST_TEST(pool.bytes_of(all[i].slot()).data() == all[i].bottom());
      BOOST_TEST(pool.bytes_of(all[i].slot()).size() == all[i].size());
    }
    BOOST_TEST(pool.stats().alive == 8U);
    all.clear();
    BOOST_TEST(pool.stats().alive == 0U);
    BOOST_TEST(pool.stats().cached == 8U);
    or_throw(pool.close());
  }
}

BOOST_AUTO_TEST_CASE(is_the_last_one_that_was_given_back) {
  auto pool = small_pool();
  auto first = std::optional{or_throw(pool.allocate())};
  auto second = std::optional{or_throw(pool.allocate())};
  auto const* const before = first->bottom();
  second.reset();
  first.reset();
  BOOST_TEST(or_throw(pool.allocate()).bottom() == before);
}

BOOST_AUTO_TEST_CASE(moves_and_is_given_back_once) {
  auto pool = small_pool();
  auto one = or_throw(pool.allocate());
  auto moved = std::move(one);
  BOOST_TEST(one.size() == 0U);
  auto other = or_throw(pool.allocate());
  other = std::move(moved);
  BOOST_TEST(pool.stats().alive == 1U);
  auto pool_elsewhere = std::move(pool);
  BOOST_TEST(pool_elsewhere.stats().alive == 1U);
  auto const used = std::move(other);
  store(used.bottom());
}

BOOST_AUTO_TEST_CASE(knows_how_deep_it_has_been) {
  auto pool = pool_of({.stack_size = mib, .capacity = 4, .resident_bytes = 0});
  auto one = or_throw(pool.allocate());
  BOOST_TEST(one.high_water() == 0U);
  store(one.top() - 1);
  BOOST_TEST(one.high_water() == page);
  store(one.top() - (100 * page) - 1);
  BOOST_TEST(one.high_water() == 101 * page);
  store(one.bottom());
  BOOST_TEST(one.high_water() == mib);
  std::size_t deepest = 0;
  auto other = or_throw(pool.allocate());
  run_on(other, [&] { deepest = deeper(100); });
  BOOST_TEST(deepest == 5050U);
  BOOST_TEST((sanitized || other.high_water() >= 100 * 64 * sizeof(std::size_t))); // which has frames elsewhere
  BOOST_TEST(other.high_water() < mib);
}

BOOST_AUTO_TEST_CASE(keeps_little_when_its_thread_has_enough_of_them) {
  auto pool = pool_of({.stack_size = 64 * 1024, .capacity = 200, .resident_bytes = 2 * page});
  std::vector<stack> all;
  for (int i = 0; i < 100; ++i) {
    all.push_back(or_throw(pool.allocate()));
    std::ranges::fill(bytes_of(all.back()), std::byte{1});
  }
  all.clear();
  std::size_t whole = 0;
  for (int i = 0; i < 100; ++i) {
    all.push_back(or_throw(pool.allocate()));
    whole += all.back().high_water() > 2 * page ? 1 : 0;
  }
  BOOST_TEST(whole <= 16U); // those the thread had kept
  all.clear();
  or_throw(pool.trim());
  all.push_back(or_throw(pool.allocate()));
  BOOST_TEST(all.back().high_water() == 0U);
}

BOOST_AUTO_TEST_CASE(leaves_memory_when_the_pool_is_trimmed_though_others_are_locked) {
  auto pool = small_pool(64);
  std::vector<stack> all;
  for (int i = 0; i < 64; ++i) {
    all.push_back(or_throw(pool.allocate()));
    std::ranges::fill(bytes_of(all.back()), std::byte{1});
  }
  BOOST_TEST_REQUIRE(::mlock(all[20].bottom(), all[20].size()) == 0);
  auto const slots = pool.stats().cached + 64;
  all.clear();
  or_throw(pool.trim());
  for (std::size_t slot = 0; slot < slots; ++slot) {
    for (std::size_t i = 0; i < 16; ++i) {
      unsigned char is_there = 0;
      BOOST_TEST_REQUIRE(::mincore(pool.bytes_of(slot).data() + (i * page), page, &is_there) == 0);
      BOOST_TEST((is_there & 1U) == 0);
    }
  }
  { // where locked memory cannot be released it is told when all else has been
    for (int i = 0; i < 64; ++i) {
      all.push_back(or_throw(pool.allocate()));
      std::ranges::fill(bytes_of(all.back()), std::byte{1});
    }
    armed const table;
    std::uint64_t released = 0;
    seam::observe([&](seam::observation const& one) { released += one.over && one.error == 0 ? 1 : 0; });
    seam::fail(call::madvise, EINVAL, 2, 60);
    all.clear();
    BOOST_TEST(fails(pool.trim(), std::errc::invalid_argument));
    BOOST_TEST(released >= 64U);
  }
}

BOOST_AUTO_TEST_CASE(reads_as_zero_where_it_is_scrubbed) {
  auto pool = pool_of({.stack_size = 64 * 1024, .capacity = 4, .scrub = true});
  std::byte const* before = nullptr;
  for (int i = 0; i < 3; ++i) {
    auto const one = or_throw(pool.allocate());
    BOOST_TEST((before == nullptr || one.bottom() == before));
    BOOST_TEST(is_zero(bytes_of(one)));
    std::ranges::fill(bytes_of(one), std::byte{1});
    before = one.bottom();
  }
}

// Which may have the same place.
BOOST_AUTO_TEST_CASE(reads_as_zero_where_a_pool_that_is_gone_was_not_scrubbed) {
  for (int i = 0; i < 20; ++i) {
    auto pool = pool_of({.stack_size = 64 * 1024, .capacity = 4, .scrub = i % 2 != 0});
    for (int k = 0; k < 2; ++k) {
      auto const one = or_throw(pool.allocate());
      BOOST_TEST((i % 2 == 0 || is_zero(bytes_of(one))));
      std::ranges::fill(bytes_of(one), std::byte{1});
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(a_guard)

BOOST_AUTO_TEST_CASE(tells_whose_stack_was_too_small) {
  for (auto const* const with : {"markers", "mappings"}) {
    BOOST_TEST_CONTEXT(with) {
      for (auto const guard : {stack_guard::low, stack_guard::both}) {
        armed const table;
        if (std::string_view{with} == "mappings") {
          seam::fail(call::madvise, EINVAL);
        }
        auto pool = small_pool(8, guard);
        std::vector<stack> all;
        for (int i = 0; i < 4; ++i) {
          all.push_back(or_throw(pool.allocate()));
        }
        auto const& one = all[2];
        auto const slot = static_cast<int>(one.slot());
        BOOST_TEST(faulting_slot(pool, [&] { store(one.bottom()); }) == no_fault);
        BOOST_TEST(faulting_slot(pool, [&] { store(one.top() - 1); }) == no_fault);
        BOOST_TEST(faulting_slot(pool, [&] { store(one.bottom() - 1); }) == slot);
        BOOST_TEST(faulting_slot(pool, [&] { store(one.bottom() - page); }) == slot);
        auto const above = guard == stack_guard::both ? slot : slot + 1;
        BOOST_TEST(faulting_slot(pool, [&] { store(one.top()); }) == above);
        auto const& last = all[3]; // above it nobody has been yet
        BOOST_TEST(faulting_slot(pool, [&] { store(last.top()); }) != no_fault);
        BOOST_TEST((pool.stats().added_mappings > 0) == (std::string_view{with} == "mappings"));
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(stops_a_recursion) {
  if (sanitized) {
    skip("a sanitizer knows only the stack it was told of");
    return;
  }
  auto pool = small_pool();
  auto const one = or_throw(pool.allocate());
  BOOST_TEST(faulting_slot(pool, [&] { run_on(one, [] { (void)deeper(1'000'000); }); }) ==
             static_cast<int>(one.slot()));
}

BOOST_AUTO_TEST_CASE(stops_a_frame_that_is_smaller) {
  if (sanitized) {
    skip("a sanitizer knows only the stack it was told of");
    return;
  }
  auto pool = pool_of({.stack_size = 64 * 1024, .capacity = 8, .guard_size = mib});
  auto const below = or_throw(pool.allocate());
  auto const one = or_throw(pool.allocate());
  BOOST_TEST(faulting_slot(pool, [&] { run_on(one, with_a_large_frame); }) == static_cast<int>(one.slot()));
}

// Nobody gets a stack without one.
BOOST_AUTO_TEST_CASE(that_cannot_be_had_is_an_error_and_the_next_try_is_another) {
  auto pool = small_pool();
  {
    armed const table;
    seam::fail(call::madvise, ENOMEM);
    BOOST_TEST(fails(pool.allocate(), std::errc::not_enough_memory));
  }
  {
    armed const table;
    seam::fail(call::madvise, EINVAL);
    seam::fail(call::mprotect, ENOMEM);
    BOOST_TEST(fails(pool.allocate(), std::errc::not_enough_memory));
    BOOST_TEST(fails(stack_pool::create(), std::errc::not_enough_memory));
  }
  auto const one = or_throw(pool.allocate());
  auto const slot = static_cast<int>(one.slot());
  BOOST_TEST(faulting_slot(pool, [&] { store(one.bottom() - 1); }) == slot);
  BOOST_TEST(faulting_slot(pool, [&] { store(one.top()); }) == slot + 1);
}

BOOST_AUTO_TEST_CASE(that_is_a_mapping_counts_against_the_limit_of_the_system) {
  armed const table;
  seam::fail(call::madvise, EINVAL);
  auto const refused = stack_pool::create({.stack_size = 16 * 1024, .capacity = 200'000});
  BOOST_TEST(fails(refused, std::errc::not_enough_memory));
  BOOST_TEST(refused.error().message().contains("vm.max_map_count"));
  auto pool = pool_of({.stack_size = 16 * 1024, .capacity = 5000});
  auto const before = maps_count();
  std::vector<stack> all;
  for (int i = 0; i < 5000; ++i) {
    all.push_back(or_throw(pool.allocate()));
  }
  BOOST_TEST(pool.stats().added_mappings >= 10'000U);
  BOOST_TEST(maps_count() - before >= 10'000 - 100U);
}

BOOST_AUTO_TEST_CASE(is_a_mapping_in_memory_that_is_locked) {
  if (sanitized) {
    skip("a sanitizer has more memory than can be locked");
    return;
  }
  BOOST_TEST(found_in_child([](findings& found) {
               auto early = small_pool();
               if (::mlockall(MCL_CURRENT | MCL_FUTURE) != 0) {
                 found.skip("memory cannot be locked");
                 return;
               }
               auto late = pool_of({.stack_size = 16 * 1024, .capacity = 8, .scrub = true});
               for (auto* const pool : {&early, &late}) {
                 auto const one = or_throw(pool->allocate());
                 auto const slot = static_cast<int>(one.slot());
                 found.expect(pool->stats().added_mappings > 0, "the guard is no mapping");
                 found.expect(faulting_slot(*pool, [&] { store(one.top()); }) == slot + 1, "no guard above");
               }
               {
                 auto const one = or_throw(late.allocate());
                 std::ranges::fill(bytes_of(one), std::byte{1});
               }
               found.expect(is_zero(bytes_of(or_throw(late.allocate()))), "it is not scrubbed");
             }) == "");
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(a_pool)

// A filter of system calls may refuse what it does not know.
BOOST_AUTO_TEST_CASE(is_a_mapping_where_markers_are_refused) {
  for (int const error : {EPERM, ENOSYS, EACCES}) {
    armed const table;
    seam::fail(call::madvise, error);
    auto pool = small_pool(8);
    auto const one = or_throw(pool.allocate());
    BOOST_TEST(pool.stats().added_mappings == 4U);
    BOOST_TEST(faulting_slot(pool, [&] { store(one.bottom() - 1); }) == static_cast<int>(one.slot()));
  }
}

// What one pool may still need is not there for the next one.
BOOST_AUTO_TEST_CASE(that_is_a_mapping_is_promised_to_one_pool) {
  armed const table;
  seam::fail(call::madvise, EINVAL);
  auto first = pool_of({.stack_size = page, .capacity = 15'000});
  auto const second = stack_pool::create({.stack_size = page, .capacity = 15'000});
  BOOST_TEST(fails(second, std::errc::not_enough_memory));
  std::vector<stack> all;
  for (int i = 0; i < 15'000; ++i) {
    all.push_back(or_throw(first.allocate()));
  }
}

BOOST_AUTO_TEST_CASE(has_two_hundred_thousand_stacks_in_one_mapping) {
  auto const before = maps_count();
  auto pool = pool_of({.stack_size = 64 * 1024, .capacity = 200'000});
  if (pool.stats().added_mappings > 0) {
    skip("guards that are no mappings need Linux 6.13");
    return;
  }
  std::vector<stack> all;
  all.reserve(200'000);
  for (std::size_t i = 0; i < 200'000; ++i) {
    all.push_back(or_throw(pool.allocate()));
    if (i % 16 == 0) {
      store(all.back().top() - 1);
    }
  }
  BOOST_TEST(pool.stats().alive == 200'000U);
  BOOST_TEST(maps_count() <= before + 8);
  for (auto const which : {0U, 77'777U, 199'999U}) {
    auto const& one = all[which];
    BOOST_TEST(faulting_slot(pool, [&] { store(one.bottom() - 1); }) != no_fault);
    BOOST_TEST(pool.slot_of(one.bottom() - 1).value() == one.slot());
  }
  std::cout << all.size() << " guarded stacks are alive in " << maps_count() - before << " more mappings\n";
}

BOOST_AUTO_TEST_CASE(has_all_its_capacity_whatever_threads_keep) {
  auto pool = small_pool(40);
  std::atomic<bool> has_kept{false};
  std::jthread const other{[&](std::stop_token const& stop) {
    {
      std::vector<stack> some;
      for (int i = 0; i < 16; ++i) {
        some.push_back(or_throw(pool.allocate()));
      }
    }
    has_kept = true;
    while (!stop.stop_requested()) {
      std::this_thread::yield();
    }
  }};
  while (!has_kept) {
    std::this_thread::yield();
  }
  std::vector<stack> all;
  for (int i = 0; i < 40; ++i) {
    all.push_back(or_throw(pool.allocate()));
  }
  auto const slots = pool.stats().slots;
  BOOST_TEST(slots > 40U);
  auto last = pool.allocate();
  for (std::size_t i = 0; i < slots && last; ++i) {
    all.push_back(std::move(*last));
    last = pool.allocate();
  }
  BOOST_TEST(fails(last, errc::reservation_exceeded));
  all.pop_back();
  BOOST_TEST(pool.allocate().has_value());
}

BOOST_AUTO_TEST_CASE(refuses_what_cannot_be) {
  for (stack_options const wrong :
       {stack_options{.stack_size = 0}, stack_options{.capacity = 0}, stack_options{.guard_size = 0},
        stack_options{.stack_size = SIZE_MAX}, stack_options{.guard_size = SIZE_MAX},
        stack_options{.capacity = SIZE_MAX}, stack_options{.stack_size = std::size_t{1} << 40, .capacity = 1 << 20}}) {
    BOOST_TEST(fails(stack_pool::create(wrong), errc::invalid_options));
  }
  {
    armed const table;
    seam::fail(call::mmap, ENOMEM);
    auto const refused = stack_pool::create();
    BOOST_TEST(fails(refused, std::errc::not_enough_memory));
    BOOST_TEST(refused.error().message().contains("vm.overcommit_memory"));
  }
  auto const odd = pool_of({.stack_size = 5000, .capacity = 1});
  BOOST_TEST(or_throw(const_cast<stack_pool&>(odd).allocate()).size() == 2 * page);
}

BOOST_AUTO_TEST_CASE(of_nothing_says_so) {
  stack_pool nothing;
  BOOST_TEST(!nothing.is_open());
  BOOST_TEST(fails(nothing.allocate(), errc::closed));
  BOOST_TEST(fails(nothing.trim(), errc::closed));
  BOOST_TEST(fails(nothing.close(), errc::closed));
  BOOST_TEST(!nothing.slot_of(&nothing).has_value());
  BOOST_TEST(nothing.bytes_of(0).empty());
  BOOST_TEST(nothing.stats().slots == 0U);
  auto pool = small_pool();
  BOOST_TEST(!pool.slot_of(&pool).has_value());
  BOOST_TEST(pool.bytes_of(pool.stats().slots).empty());
}

std::string dropped;

BOOST_AUTO_TEST_CASE(stays_while_its_stacks_are_alive) {
  auto pool = small_pool();
  auto one = std::optional{or_throw(pool.allocate())};
  BOOST_TEST(fails(pool.close(), errc::in_use));
  BOOST_TEST(pool.allocate().has_value());
  dropped.clear();
  auto const before =
      fmmap::set_dropped_error_handler([](fmmap::error const& why) noexcept { dropped = why.message(); });
  {
    auto const gone = std::move(pool);
  }
  fmmap::set_dropped_error_handler(before);
  BOOST_TEST(dropped.contains("1 of its stacks"));
  std::ranges::fill(bytes_of(*one), std::byte{1});
  one.reset(); // to a pool that nobody has any more
}

BOOST_AUTO_TEST_CASE(has_no_huge_pages) {
  auto pool = pool_of({.stack_size = 4 * mib, .capacity = 4});
  auto const one = or_throw(pool.allocate());
  std::ifstream maps{"/proc/self/smaps"};
  auto const begin = reinterpret_cast<std::uintptr_t>(one.bottom());
  auto is_here = false;
  std::string flags;
  for (std::string line; std::getline(maps, line) && flags.empty();) {
    std::uintptr_t from = 0;
    std::uintptr_t to = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx ", &from, &to) == 2) {
      is_here = from <= begin && begin < to;
    } else if (is_here && line.starts_with("VmFlags:")) {
      flags = line;
    }
  }
  BOOST_TEST(flags.contains(" nh"), flags);
  auto const resident = status_field("RssAnon:");
  for (std::size_t at = 0; at < 64; ++at) {
    store(one.bottom() + at * page);
  }
  BOOST_TEST(status_field("RssAnon:") - resident < 512 + 256); // KiB; a huge page has 2048
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(giving_back)

struct context {
  std::size_t size = 0;
  void* sp = nullptr;
};

BOOST_AUTO_TEST_CASE(what_is_nobodys_ends_the_program) {
  auto pool = small_pool();
  auto other_pool = small_pool();
  stack_allocator<context> lender{pool};
  stack_allocator<context> other{other_pool};
  auto one = lender.allocate();
  BOOST_TEST(one.size == 64 * 1024U);
  BOOST_TEST(pool.slot_of(static_cast<std::byte*>(one.sp) - 1).has_value());
  BOOST_TEST(dies_of(SIGABRT, [&] { other.deallocate(one); }));
  BOOST_TEST(dies_of(SIGABRT, [&] {
    lender.deallocate(one);
    lender.deallocate(one);
  }));
  BOOST_TEST(dies_of(SIGABRT, [&] {
    context inside{.size = one.size, .sp = static_cast<std::byte*>(one.sp) - page};
    lender.deallocate(inside);
  }));
  BOOST_TEST(dies_of(SIGABRT, [&] {
    context nothing;
    lender.deallocate(nothing);
  }));
  BOOST_TEST(dies_of(SIGABRT, [&] {
    std::jthread{[&] { lender.deallocate(one); }}.join();
    lender.deallocate(one); // what this thread took last
  }));
  for (bool const scrub : {false, true}) {
    BOOST_TEST(dies_of(SIGABRT, [&] {
      auto both = pool_of({.stack_size = 64 * 1024, .capacity = 8, .scrub = scrub});
      stack_allocator<context> of_both{both};
      auto const object = or_throw(both.allocate());
      context same{.size = object.size(), .sp = object.top()};
      of_both.deallocate(same);
    }));
  }
  lender.deallocate(one);
  BOOST_TEST(pool.stats().alive == 0U);
  std::vector<context> all;
  for (std::size_t i = 0; i < pool.stats().slots; ++i) {
    all.push_back(lender.allocate());
  }
  BOOST_CHECK_THROW((void)lender.allocate(), std::bad_alloc);
  auto const elsewhere = std::move(pool);
  for (auto& each : all) {
    lender.deallocate(each);
  }
  BOOST_TEST(elsewhere.stats().alive == 0U);
}

// Its cache is made after the object, and goes before it.
BOOST_AUTO_TEST_CASE(is_possible_when_the_cache_of_the_thread_has_gone) {
  auto pool = small_pool();
  std::jthread{[&] {
    static thread_local std::optional<stack> kept;
    kept.reset();
    kept.emplace(or_throw(pool.allocate()));
  }}.join();
  BOOST_TEST(pool.stats().alive == 0U);
  BOOST_TEST(pool.stats().cached >= 1U);
  or_throw(pool.close());
}

// Wherever the others are in taking and giving back.
BOOST_AUTO_TEST_CASE(hands_nothing_out_twice_in_a_forked_child) {
  if (thread_sanitized) {
    skip("the thread sanitizer wants no fork of a process with threads");
    return;
  }
  auto pool = small_pool(64);
  std::vector<std::jthread> all;
  for (unsigned seed = 1; seed <= 2; ++seed) {
    all.emplace_back([&, seed](std::stop_token const& stop) {
      std::minstd_rand random{seed};
      std::vector<stack> some;
      while (!stop.stop_requested()) {
        some.push_back(or_throw(pool.allocate()));
        if (some.size() > random() % 24) {
          some.clear();
        }
      }
    });
  }
  for (int i = 0; i < 200; ++i) {
    BOOST_TEST_REQUIRE(found_in_child([&](findings& found) {
                         std::set<std::size_t> slots;
                         std::vector<stack> mine;
                         for (auto one = pool.allocate(); one; one = pool.allocate()) {
                           found.expect(slots.insert(one->slot()).second, "it was handed out before");
                           mine.push_back(std::move(*one));
                         }
                         // Each thread may have had so many in hand, and half a cache on the way.
                         found.expect(slots.size() >= pool.stats().slots - (2 * (24 + 8)), "others are lost");
                       }) == "");
  }
}

BOOST_AUTO_TEST_CASE(works_in_a_forked_child_for_what_it_has) {
  if (thread_sanitized) {
    skip("the thread sanitizer wants no fork of a process with threads");
    return;
  }
  auto pool = small_pool(4);
  auto one = std::optional{or_throw(pool.allocate())};
  std::ranges::fill(bytes_of(*one), std::byte{1});
  std::atomic<bool> is_busy{false};
  std::jthread const other{[&](std::stop_token const& stop) {
    while (!stop.stop_requested()) {
      auto const mine = or_throw(pool.allocate());
      is_busy = true;
    }
  }};
  while (!is_busy) {
    std::this_thread::yield();
  }
  for (int i = 0; i < 20; ++i) {
    BOOST_TEST(found_in_child([&](findings& found) {
                 ::alarm(20);
                 found.expect(bytes_of(*one)[0] == std::byte{1}, "it has another content");
                 auto const slot = static_cast<int>(one->slot());
                 found.expect(faulting_slot(pool, [&] { store(one->bottom() - 1); }) == slot, "it has no guard");
                 std::ranges::fill(bytes_of(*one), std::byte{2});
                 one.reset();
                 std::vector<stack> all;
                 for (int k = 0; k < 4; ++k) {
                   all.push_back(or_throw(pool.allocate()));
                   store(all.back().bottom());
                 }
               }) == "");
  }
  BOOST_TEST((bytes_of(*one)[0] == std::byte{1}));
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(several_threads)

BOOST_AUTO_TEST_CASE(take_and_give_back_each_others_stacks) {
  auto pool = small_pool(64);
  auto second = small_pool(64);
  std::array<std::atomic<stack*>, 32> table{};
  std::atomic<std::uint64_t> wrong{0};
  {
    std::vector<std::jthread> all;
    for (unsigned seed = 1; seed <= 4; ++seed) {
      all.emplace_back([&, seed] {
        std::minstd_rand random{seed};
        for (int i = 0; i < 20'000; ++i) {
          auto taken = (random() % 2 == 0 ? pool : second).allocate();
          if (!taken) {
            ++wrong;
            continue;
          }
          auto one = std::make_unique<stack>(std::move(*taken));
          std::memset(one->bottom(), static_cast<int>(seed), 64);
          std::memset(one->top() - 64, static_cast<int>(seed), 64);
          std::this_thread::yield();
          wrong += one->bottom()[63] == static_cast<std::byte>(seed) && one->top()[-1] == static_cast<std::byte>(seed)
                       ? 0
                       : 1;
          delete table[random() % table.size()].exchange(one.release()); // somebody else's, most of the time
        }
      });
    }
  }
  for (auto& each : table) {
    delete each.exchange(nullptr);
  }
  BOOST_TEST(wrong == 0U);
  BOOST_TEST(pool.stats().alive == 0U);
  BOOST_TEST(second.stats().alive == 0U);
  or_throw(pool.close());
}

BOOST_AUTO_TEST_CASE(may_use_another_pool_while_one_is_closed) {
  auto lasting = small_pool(8);
  std::atomic<stack_pool*> offered{nullptr};
  std::atomic<std::uint64_t> wrong{0};
  {
    std::jthread const other{[&](std::stop_token const& stop) {
      while (!stop.stop_requested()) {
        if (auto* const brief = offered.load(); brief != nullptr) {
          wrong += brief->allocate() ? 0 : 1;
          offered = nullptr; // and the stack that it has at hand is of that pool
        }
        auto const one = lasting.allocate();
        wrong += one && lasting.slot_of(one->bottom()) == one->slot() ? 0 : 1;
      }
    }};
    for (int i = 0; i < 300; ++i) {
      auto brief = small_pool(8);
      offered = &brief;
      while (offered != nullptr) {
        std::this_thread::yield();
      }
      or_throw(brief.close());
    }
  }
  BOOST_TEST(wrong == 0U);
  BOOST_TEST(lasting.stats().alive == 0U);
}

BOOST_AUTO_TEST_CASE(that_end_leave_their_stacks_to_others) {
  auto pool = small_pool(8);
  for (int i = 0; i < 1000; ++i) {
    std::jthread{[&] {
      std::vector<stack> some;
      for (int k = 0; k < 8; ++k) {
        some.push_back(or_throw(pool.allocate()));
      }
    }}.join();
  }
  BOOST_TEST(pool.stats().cached <= pool.stats().slots);
  std::vector<stack> all;
  for (int k = 0; k < 8; ++k) {
    all.push_back(or_throw(pool.allocate()));
  }
}

BOOST_AUTO_TEST_SUITE_END()
