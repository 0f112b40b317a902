// SPDX-License-Identifier: MIT OR Apache-2.0

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <expected>
#include <fstream>
#include <functional>
#include <iostream>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "exec/strategies.hpp"
#include "support/outcome.hpp"
#include "support/process.hpp"
#include "support/sandbox.hpp"

import fmmap.core;
import fmmap.exec;
import fmmap.os;

using fmmap::code_arena;
using fmmap::code_buffer;
using fmmap::code_span;
using fmmap::code_strategy;
using fmmap::errc;
using fmmap::or_throw;
using fmmap::os::call;
namespace seam = fmmap::os::seam;
using seam::armed;

namespace {

constexpr std::size_t mib = std::size_t{1} << 20;
constexpr std::size_t page = 4096;
constexpr int set_mdwe = 65; // PR_SET_MDWE, newer than Debian 12's headers
constexpr std::array strategies{code_strategy::no_alias, code_strategy::dual, code_strategy::toggle};

auto arena_of(code_strategy one, std::size_t reserve = mib) -> code_arena {
  return or_throw(code_arena::create({.reserve = reserve, .strategy = one}));
}

// Room for a function; where there is none, once those that guard what is retired have had their turn.
auto room(code_arena& arena) -> code_span {
  while (true) {
    auto const made = arena.allocate(6);
    if (made || made.error() != errc::reservation_exceeded || arena.stats().retired == 0) {
      return or_throw(made);
    }
    std::this_thread::yield();
  }
}

auto published(code_arena& arena, std::uint32_t value) -> code_span {
  auto const made = room(arena);
  or_throw(arena.write(made, returning(value)));
  or_throw(arena.publish());
  return made;
}

auto run(code_span code) -> std::uint32_t { return code.entry<std::uint32_t()>()(); }

auto is_trapped(std::span<std::byte const> bytes) -> bool {
  return std::ranges::all_of(bytes, [](std::byte one) { return one == std::byte{0xcc}; });
}

template <class Body>
void with_each(Body body) {
  for (auto const one : strategies) {
    BOOST_TEST_CONTEXT(fmmap::to_string(one)) { body(one); }
  }
}

} // namespace

BOOST_AUTO_TEST_SUITE(code_in_an_arena)

BOOST_AUTO_TEST_CASE(runs_once_it_is_published_with_every_strategy) {
  with_each([](code_strategy one) {
    auto arena = arena_of(one);
    BOOST_TEST((arena.strategy() == one));
    BOOST_TEST(!arena.security_level().empty());
    std::vector<code_span> all;
    for (std::uint32_t i = 0; i < 1000; ++i) {
      all.push_back(or_throw(arena.allocate(6)));
      or_throw(arena.write(all.back(), returning(i)));
      BOOST_TEST_REQUIRE((one == code_strategy::dual || is_trapped(all.back().bytes())));
    }
    or_throw(arena.publish());
    for (std::uint32_t i = 0; i < all.size(); ++i) {
      BOOST_TEST_REQUIRE(run(all[i]) == i);
      BOOST_TEST_REQUIRE(reinterpret_cast<std::uintptr_t>(all[i].address()) % 64 == 0);
    }
    BOOST_TEST(arena.stats().functions == 1000);
    BOOST_TEST(arena.stats().publishes == 1);
    or_throw(arena.close());
  });
}

BOOST_AUTO_TEST_CASE(automatic_takes_the_strategy_without_a_writable_address) {
  BOOST_TEST((or_throw(code_arena::create()).strategy() == code_strategy::no_alias));
}

BOOST_AUTO_TEST_CASE(lies_within_reach_of_the_programs_own) {
  auto const arena = or_throw(code_arena::create());
  auto const text = reinterpret_cast<std::intptr_t>(&arena_of);
  for (auto const* const end : {arena.storage().data(), arena.storage().data() + arena.storage().size()}) {
    BOOST_TEST(std::abs(reinterpret_cast<std::intptr_t>(end) - text) < std::intptr_t{1} << 31);
  }
}

BOOST_AUTO_TEST_CASE(is_the_last_that_was_written_and_traps_behind_it) {
  with_each([](code_strategy one) {
    auto arena = arena_of(one);
    auto const code = or_throw(arena.allocate(100));
    or_throw(arena.write(code, std::vector(100, std::byte{0x90})));
    or_throw(arena.write(code, returning(7)));
    or_throw(arena.publish());
    BOOST_TEST(run(code) == 7);
    BOOST_TEST(is_trapped(code.bytes().subspan(6)));
  });
}

BOOST_AUTO_TEST_CASE(is_aligned_as_asked_and_given_back_so) {
  auto arena = arena_of(code_strategy::dual, 4 * mib);
  for (int round = 0; round < 3; ++round) {
    std::vector<code_span> all;
    for (std::size_t alignment = 1; alignment <= page; alignment *= 2) {
      for (std::size_t const size : {std::size_t{1}, alignment, std::size_t{5000}}) {
        all.push_back(or_throw(arena.allocate(size, alignment)));
        BOOST_TEST(reinterpret_cast<std::uintptr_t>(all.back().address()) % alignment == 0);
      }
    }
    for (auto const& code : all) {
      or_throw(arena.retire(code));
    }
    BOOST_TEST(or_throw(arena.reclaim()) == all.size());
  }
}

BOOST_AUTO_TEST_CASE(is_counted_in_lines) {
  auto arena = arena_of(code_strategy::dual);
  auto const fresh = arena.stats();
  BOOST_TEST(fresh.used_bytes == 0U);
  BOOST_TEST(fresh.free_bytes == mib);
  BOOST_TEST(fresh.largest_free == mib);
  BOOST_TEST(fresh.fragmentation() == 0.0);
  std::vector<code_span> all;
  for (int i = 0; i < 64; ++i) {
    all.push_back(or_throw(arena.allocate(6)));
  }
  auto const larger = or_throw(arena.allocate(100));
  BOOST_TEST(arena.stats().used_bytes == (64 * 64) + 128U);
  for (std::size_t i = 0; i < all.size(); i += 2) {
    or_throw(arena.retire(all[i]));
  }
  or_throw(arena.retire(larger));
  BOOST_TEST(or_throw(arena.reclaim()) == 33);
  auto const some = arena.stats();
  BOOST_TEST(some.used_bytes == 32 * 64U);
  BOOST_TEST(some.free_bytes == mib - (32 * 64));
  BOOST_TEST(some.largest_free < some.free_bytes);
  BOOST_TEST(some.fragmentation() > 0.0);
  BOOST_TEST(some.fragmentation() < 0.1);
}

// What is written again, or given up before it is published, is found at once among many.
BOOST_AUTO_TEST_CASE(is_written_again_and_given_up_among_many) {
  with_each([](code_strategy one) {
    auto arena = arena_of(one, 64 * mib);
    std::vector<code_span> all;
    for (std::uint32_t i = 0; i < 30'000; ++i) {
      all.push_back(or_throw(arena.allocate(6)));
      or_throw(arena.write(all.back(), returning(i)));
    }
    for (std::uint32_t i = 0; i < all.size(); ++i) {
      if (i % 3 == 0) {
        or_throw(arena.retire(all[i]));
      } else {
        or_throw(arena.write(all[i], returning(i + 1)));
      }
    }
    if (one != code_strategy::dual) { // so that the next call begins with another order
      armed const table;
      seam::fail(call::membarrier, EIO);
      seam::fail(call::mprotect, EIO);
      BOOST_TEST(fails(arena.publish(), std::errc::io_error));
    }
    for (std::uint32_t i = 1; i < all.size(); i += 3) {
      or_throw(arena.write(all[i], returning(i + 2)));
    }
    or_throw(arena.publish());
    for (std::uint32_t i = 0; i < all.size(); ++i) {
      BOOST_TEST_REQUIRE((i % 3 == 0 || run(all[i]) == i + (i % 3 == 1 ? 2 : 1)));
    }
    BOOST_TEST(arena.stats().functions == 20'000U);
    // With all of a batch given up there is nothing to publish.
    auto const publishes = arena.stats().publishes;
    auto const given_up = or_throw(arena.allocate(6));
    or_throw(arena.write(given_up, returning(1)));
    or_throw(arena.retire(given_up));
    or_throw(arena.publish());
    BOOST_TEST(arena.stats().publishes == publishes);
  });
}

BOOST_AUTO_TEST_CASE(of_large_functions_is_whole) {
  with_each([](code_strategy one) {
    auto arena = arena_of(one, 16 * mib);
    auto const code = or_throw(arena.allocate(5 * mib));
    std::vector<std::byte> slide(5 * mib, std::byte{0x90});
    std::ranges::copy(returning(9), slide.end() - 6);
    or_throw(arena.write(code, slide));
    or_throw(arena.publish());
    BOOST_TEST(run(code) == 9);
  });
}

BOOST_AUTO_TEST_CASE(is_found_by_every_address_in_it_and_by_no_other) {
  with_each([](code_strategy one) {
    auto arena = arena_of(one);
    BOOST_TEST(!arena.find(arena.storage().data()));
    auto const small = or_throw(arena.allocate(6));
    BOOST_TEST(!arena.find(small.address()).has_value()); // not published
    or_throw(arena.write(small, returning(1)));
    or_throw(arena.publish());
    auto const large = or_throw(arena.allocate(1000));
    or_throw(arena.write(large, returning(2)));
    or_throw(arena.publish());
    for (auto const& code : {small, large}) {
      for (std::size_t i = 0; i < code.size(); ++i) {
        BOOST_TEST_REQUIRE((arena.find(code.address() + i) == code));
      }
      BOOST_TEST(!arena.find(code.address() + code.size()).has_value());
    }
    int local = 0;
    BOOST_TEST(!arena.find(&local).has_value());
    BOOST_TEST(!arena.find(nullptr).has_value());
    BOOST_TEST(!arena.find(arena.storage().data() + arena.storage().size()).has_value());
    or_throw(arena.retire(small));
    BOOST_TEST((arena.find(small.address()) == small)); // it may be running
    or_throw(arena.reclaim());
    BOOST_TEST(!arena.find(small.address()).has_value());
  });
}

// call rdi; ret, without a word about how to unwind it.
BOOST_AUTO_TEST_CASE(lets_no_exception_through) {
  auto arena = arena_of(code_strategy::no_alias);
  auto const code = or_throw(arena.allocate(8));
  constexpr std::array<unsigned char, 8> calling{0x48, 0x83, 0xec, 0x08, 0xff, 0xd7, 0x58, 0xc3};
  or_throw(arena.write(code, std::as_bytes(std::span{calling})));
  or_throw(arena.publish());
  auto* const call = code.entry<void(void (*)())>();
  BOOST_TEST(dies_of(SIGABRT, [&] {
    std::set_terminate(nullptr);
    try {
      call([] { throw std::runtime_error("through code"); });
    } catch (std::runtime_error const&) {
      ::_exit(1);
    }
  }));
}

BOOST_AUTO_TEST_CASE(becomes_traps_and_is_used_again_when_it_is_retired) {
  with_each([](code_strategy one) {
    auto arena = arena_of(one, 64 * 1024);
    std::vector<code_span> all;
    while (true) { // until it is full
      auto const made = arena.allocate(64);
      if (!made) {
        BOOST_TEST((made.error() == errc::reservation_exceeded));
        break;
      }
      all.push_back(*made);
      or_throw(arena.write(all.back(), returning(3)));
    }
    BOOST_TEST(all.size() == 1024);
    or_throw(arena.publish());
    for (auto const& code : all) {
      or_throw(arena.retire(code));
    }
    or_throw(arena.reclaim());
    BOOST_TEST(arena.stats().retired == 0);
    BOOST_TEST(is_trapped(arena.storage()));
    BOOST_TEST(run(published(arena, 8)) == 8);
  });
}

BOOST_AUTO_TEST_CASE(is_not_reclaimed_before_the_guards_that_began_before_have_ended) {
  auto arena = arena_of(code_strategy::dual);
  auto const code = published(arena, 5);
  auto first = std::make_optional<code_arena::guard>(arena);
  or_throw(arena.retire(code));
  auto second = std::make_optional<code_arena::guard>(arena);
  for (int i = 0; i < 10; ++i) {
    BOOST_TEST(or_throw(arena.reclaim()) == 0);
    BOOST_TEST(run(code) == 5);
  }
  first.reset();
  second.reset();
  BOOST_TEST(or_throw(arena.reclaim()) == 1);
  BOOST_TEST(is_trapped(code.bytes()));
}

BOOST_AUTO_TEST_CASE(of_an_arena_that_is_full_makes_room_when_it_is_retired) {
  auto arena = arena_of(code_strategy::dual, 64 * 1024);
  for (std::uint32_t i = 0; i < 10'000; ++i) {
    auto const code = published(arena, i);
    BOOST_TEST_REQUIRE(run(code) == i);
    or_throw(arena.retire(code));
  }
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(what_an_arena_refuses)

BOOST_AUTO_TEST_CASE(is_an_error_that_says_why_and_changes_nothing) {
  BOOST_TEST(fails(code_arena::create({.reserve = 0}), errc::invalid_options));
  BOOST_TEST(fails(code_arena::create({.reserve = (std::size_t{2} << 30) + 1}), errc::invalid_options));
  BOOST_TEST(fails(code_arena::create({.reserve = SIZE_MAX}), errc::invalid_options));
  with_each([](code_strategy one) {
    auto arena = arena_of(one);
    auto other = arena_of(one);
    for (std::size_t const size : {std::size_t{0}, std::size_t{1} << 28, SIZE_MAX}) {
      BOOST_TEST(fails(arena.allocate(size), errc::invalid_options));
    }
    for (std::size_t const alignment : {std::size_t{0}, std::size_t{3}, 2 * page, SIZE_MAX}) {
      BOOST_TEST(fails(arena.allocate(8, alignment), errc::invalid_options));
    }
    BOOST_TEST(fails(arena.allocate(2 * mib), errc::reservation_exceeded));

    auto const code = or_throw(arena.allocate(6));
    BOOST_TEST(fails(arena.write(code, std::vector(7, std::byte{})), errc::out_of_range));
    BOOST_TEST(fails(other.write(code, returning(1)), errc::not_allocated));
    BOOST_TEST(fails(arena.write({}, returning(1)), errc::not_allocated));
    or_throw(arena.write(code, returning(1)));
    or_throw(arena.publish());
    or_throw(arena.publish()); // there is nothing
    BOOST_TEST(arena.stats().publishes == 1);
    BOOST_TEST(fails(arena.write(code, returning(2)), errc::already_published));
    BOOST_TEST(run(code) == 1);

    or_throw(arena.retire(code));
    BOOST_TEST(fails(arena.retire(code), errc::not_allocated));
    BOOST_TEST(fails(arena.write(code, returning(2)), errc::not_allocated));
    or_throw(arena.reclaim());
    BOOST_TEST(fails(arena.retire(code), errc::not_allocated));

    auto const never = or_throw(arena.allocate(6)); // written, and retired instead of published
    or_throw(arena.write(never, returning(3)));
    or_throw(arena.retire(never));
    or_throw(arena.publish());
    or_throw(arena.reclaim());
    BOOST_TEST(is_trapped(never.bytes()));
  });
}

BOOST_AUTO_TEST_CASE(is_everything_when_it_is_closed_or_moved_from) {
  auto arena = arena_of(code_strategy::dual);
  auto const code = published(arena, 1);
  auto moved = std::move(arena);
  BOOST_TEST(run(code) == 1);
  or_throw(moved.close());
  for (auto* const one : {&arena, &moved}) {
    BOOST_TEST(!one->is_open());
    BOOST_TEST(fails(one->allocate(6), errc::closed));
    BOOST_TEST(fails(one->write(code, returning(2)), errc::closed));
    BOOST_TEST(fails(one->publish(), errc::closed));
    BOOST_TEST(fails(one->retire(code), errc::closed));
    BOOST_TEST(fails(one->reclaim(), errc::closed));
    BOOST_TEST(fails(one->seal(), errc::closed));
    BOOST_TEST(fails(one->close(), errc::closed));
    BOOST_TEST(!one->find(code.address()).has_value());
    BOOST_TEST(one->storage().empty());
    BOOST_TEST(one->stats().reserved_bytes == 0);
    code_arena::guard const nothing{*one};
  }
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(code)

BOOST_AUTO_TEST_CASE(is_final_in_a_sealed_arena) {
  with_each([](code_strategy one) {
    auto arena = arena_of(one);
    auto const code = or_throw(arena.allocate(6));
    or_throw(arena.write(code, returning(4)));
    or_throw(arena.seal());
    BOOST_TEST(arena.is_sealed());
    BOOST_TEST(run(code) == 4);
    BOOST_TEST(fails(arena.allocate(6), errc::sealed));
    BOOST_TEST(fails(arena.write(code, returning(2)), errc::sealed));
    BOOST_TEST(fails(arena.publish(), errc::sealed));
    BOOST_TEST(fails(arena.retire(code), errc::sealed));
    BOOST_TEST(fails(arena.seal(), errc::sealed));
    BOOST_TEST((arena.find(code.address()) == code));
    BOOST_TEST(found_in_child([&](findings& found) { found.expect(run(code) == 4, "a child cannot run it"); }) == "");
  });
}

// What somebody tries who can make the process call the system, or open its own memory.
BOOST_AUTO_TEST_CASE(cannot_be_made_writable_where_it_has_no_writable_address) {
  for (auto const sealed : {false, true}) {
    auto arena = arena_of(code_strategy::no_alias);
    auto const code = published(arena, 6);
    if (sealed) {
      or_throw(arena.seal());
    }
    auto* const address = const_cast<std::byte*>(code.address());
    auto* const start = address - reinterpret_cast<std::uintptr_t>(address) % page;
    for (int const access : {PROT_READ | PROT_WRITE, PROT_READ | PROT_WRITE | PROT_EXEC}) {
      BOOST_TEST(::mprotect(start, page, access) == -1);
      BOOST_TEST(errno == EACCES);
    }
    auto const memory = ::open("/proc/self/mem", O_RDWR | O_CLOEXEC);
    BOOST_REQUIRE(memory >= 0);
    BOOST_TEST(::pwrite(memory, "\xc3", 1, static_cast<off_t>(reinterpret_cast<std::uintptr_t>(address))) == -1);
    BOOST_TEST(errno == EIO);
    ::close(memory);
    BOOST_TEST(run(code) == 6);
  }
}

BOOST_AUTO_TEST_CASE(of_the_parent_is_out_of_a_childs_reach) {
  with_each([](code_strategy one) {
    auto arena = arena_of(one);
    auto const code = published(arena, 6);
    auto const unpublished = or_throw(arena.allocate(6));
    BOOST_TEST(found_in_child([&](findings& found) {
                 found.expect(run(code) == 6, "it does not run");
                 found.expect(fails(arena.allocate(6), errc::forked), "allocate");
                 found.expect(fails(arena.write(unpublished, returning(1)), errc::forked), "write");
                 found.expect(fails(arena.publish(), errc::forked), "publish");
                 found.expect(fails(arena.retire(code), errc::forked), "retire");
                 found.expect(fails(arena.reclaim(), errc::forked), "reclaim");
                 found.expect(fails(arena.seal(), errc::forked), "seal");
                 found.expect(arena.find(code.address()) == code, "find");
                 {
                   code_arena::guard const running{arena};
                 }
                 std::ifstream maps{"/proc/self/maps"};
                 for (std::string line; std::getline(maps, line);) {
                   found.expect(!line.contains("fmmap-code") || line[line.find(' ') + 2] == '-', "an alias: " + line);
                 }
                 found.expect(arena.close().has_value(), "close");
               }) == "");
    BOOST_TEST(run(code) == 6);
    or_throw(arena.write(unpublished, returning(7)));
    or_throw(arena.publish());
    BOOST_TEST(run(unpublished) == 7);
  });
}

// Threads that are amid a call when another one forks are not in the child, where their locks are taken for ever.
BOOST_AUTO_TEST_CASE(of_the_parent_keeps_no_child_waiting) {
  if (thread_sanitized) {
    std::cout << "SKIP: the thread sanitizer wants no fork of a process with threads\n";
    return;
  }
  auto arena = arena_of(code_strategy::no_alias);
  std::jthread const busy{[&](std::stop_token const& stop) {
    while (!stop.stop_requested()) {
      or_throw(arena.retire(published(arena, 1)));
    }
  }};
  for (int i = 0; i < 50; ++i) {
    auto const child = start_child([&] {
      ::alarm(20);
      auto const refused = fails(arena.publish(), errc::forked) && fails(arena.reclaim(), errc::forked) &&
                           fails(arena.allocate(6), errc::forked) && fails(arena.seal(), errc::forked);
      return refused && arena.stats().functions == 0 && arena.close() ? 0 : 1;
    });
    BOOST_TEST(end_of(child) == 0);
  }
}

// PR_SET_MDWE is for good, hence a child, which executes nothing that has to be made anew.
BOOST_AUTO_TEST_CASE(comes_into_being_where_nothing_may_become_executable_that_was_writable) {
  BOOST_TEST(found_in_child([](findings& found) {
               if (::prctl(set_mdwe, 1, 0, 0, 0) != 0) {
                 found.skip("PR_SET_MDWE needs Linux 6.3");
                 return;
               }
               for (auto const one : {code_strategy::no_alias, code_strategy::dual, code_strategy::automatic}) {
                 auto arena = arena_of(one);
                 found.expect(run(published(arena, 6)) == 6, fmmap::to_string(one));
               }
               found.expect(or_throw(code_buffer::make(returning(7))).entry<int()>()() == 7, "code_buffer");
               auto const toggle = code_arena::create({.strategy = code_strategy::toggle});
               found.expect(fails(toggle, std::errc::permission_denied), "toggle is not refused");
             }) == "");
}

BOOST_AUTO_TEST_CASE(comes_into_being_where_memory_files_must_not_be_executable) {
  BOOST_TEST(found_in_child([](findings& found) {
               if (::unshare(CLONE_NEWPID) != 0) {
                 found.skip("a namespace of processes needs root");
                 return;
               }
               auto const inside = start_child([] {
                 std::ofstream setting{"/proc/sys/vm/memfd_noexec"};
                 if (!(setting << 2 << std::flush)) {
                   std::cout << "SKIP: vm.memfd_noexec needs Linux 6.3\n";
                   return 0;
                 }
                 ::prctl(set_mdwe, 1, 0, 0, 0);
                 for (auto const one : {code_strategy::no_alias, code_strategy::dual}) {
                   auto arena = arena_of(one);
                   if (run(published(arena, 6)) != 6) {
                     return 1;
                   }
                 }
                 return 0;
               });
               found.expect(end_of(inside) == 0, "code does not run");
             }) == "");
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(a_system_without)

BOOST_AUTO_TEST_CASE(memory_files_has_the_strategy_that_needs_none) {
  armed const table;
  seam::pretend_absent(call::memfd_create);
  auto arena = or_throw(code_arena::create({.reserve = mib}));
  BOOST_TEST((arena.strategy() == code_strategy::toggle));
  BOOST_TEST(run(published(arena, 6)) == 6);
  for (auto const one : {code_strategy::no_alias, code_strategy::dual}) {
    BOOST_TEST(fails(code_arena::create({.strategy = one}), std::errc::function_not_supported));
  }
}

// The same by a filter of system calls, as sandboxes install them: the error is another one.
BOOST_AUTO_TEST_CASE(memory_files_by_a_filter_has_the_strategy_that_needs_none) {
  BOOST_TEST(found_in_child([](findings& found) {
               forbid_call(SYS_memfd_create);
               auto arena = or_throw(code_arena::create({.reserve = mib}));
               found.expect(arena.strategy() == code_strategy::toggle, "another strategy");
               found.expect(run(published(arena, 6)) == 6, "it does not run");
               found.expect(or_throw(code_buffer::make(returning(7))).entry<int()>()() == 7, "code_buffer");
               found.expect(
                   fails(code_arena::create({.strategy = code_strategy::no_alias}), std::errc::operation_not_permitted),
                   "no_alias is not refused");
             }) == "");
}

// Memory files are on no file system that is mounted anywhere.
BOOST_AUTO_TEST_CASE(execution_in_dev_shm_does_not_care) {
  BOOST_TEST(found_in_child([](findings& found) {
               if (::unshare(CLONE_NEWNS) != 0 || ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
                   ::mount("none", "/dev/shm", "tmpfs", MS_NOEXEC | MS_NOSUID, "size=1m") != 0) {
                 found.skip("mounting needs root");
                 return;
               }
               for (auto const one : strategies) {
                 auto arena = arena_of(one);
                 found.expect(run(published(arena, 6)) == 6, fmmap::to_string(one));
               }
             }) == "");
}

BOOST_AUTO_TEST_CASE(room_for_the_reserve_says_so_and_has_room_for_less) {
  if (sanitized) {
    skip("a sanitizer has reserved more than any limit");
    return;
  }
  BOOST_TEST(found_in_child([](findings& found) {
               limit(RLIMIT_AS, (status_field("VmSize:") << 10U) + 64 * mib);
               for (auto const one : strategies) {
                 auto const refused = code_arena::create({.reserve = 256 * mib, .strategy = one});
                 found.expect(fails(refused, std::errc::not_enough_memory), fmmap::to_string(one));
                 auto arena = arena_of(one, 4 * mib);
                 found.expect(run(published(arena, 6)) == 6, fmmap::to_string(one));
               }
             }) == "");
}

// Whatever is free within 2 GiB of the program is taken.
BOOST_AUTO_TEST_CASE(room_near_the_program_says_so_and_has_room_elsewhere) {
  if (sanitized) {
    skip("a sanitizer has reserved what is near");
    return;
  }
  BOOST_TEST(found_in_child([](findings& found) {
               // Volatile, or clang 19 makes an address of 32 bits of what is subtracted from it.
               std::uintptr_t const volatile where = reinterpret_cast<std::uintptr_t>(&arena_of);
               auto const text = where;
               auto const reach = std::uintptr_t{1} << 31;
               for (auto length = std::size_t{16} * mib; length >= page; length /= 4) {
                 auto const begin = (text > reach ? text - reach : mib) / length * length;
                 for (auto at = begin; at < text + reach; at += length) {
                   (void)::mmap(reinterpret_cast<void*>(at), length, PROT_NONE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
                 }
                 if (length <= mib) { // what is smaller has no room for an arena of 1 MiB
                   break;
                 }
               }
               for (auto const one : strategies) {
                 found.expect(
                     fails(code_arena::create({.reserve = 2 * mib, .strategy = one}), std::errc::not_enough_memory),
                     "near: " + std::string{fmmap::to_string(one)});
                 auto far = or_throw(code_arena::create({.reserve = 2 * mib, .strategy = one, .near_text = false}));
                 found.expect(run(published(far, 6)) == 6, fmmap::to_string(one));
               }
             }) == "");
}

// Each is as small as can be: no more than a mapping or two.
BOOST_AUTO_TEST_CASE(large_gaps_between_them_has_room_for_a_thousand) {
  std::vector<code_buffer> all;
  for (std::uint32_t i = 0; i < 1000; ++i) {
    all.push_back(or_throw(code_buffer::make(returning(i))));
  }
  for (std::uint32_t i = 0; i < all.size(); ++i) {
    BOOST_TEST_REQUIRE(all[i].entry<std::uint32_t()>()() == i);
  }
}

// Each page of its own mapping, until there may be no more.
BOOST_AUTO_TEST_CASE(room_for_more_mappings_can_still_give_code_up) {
  if (sanitized) {
    skip("a sanitizer has mappings of its own");
    return;
  }
  auto arena = or_throw(code_arena::create({.reserve = 512 * mib, .strategy = code_strategy::toggle}));
  std::vector<code_span> all;
  std::vector<code_span> between;
  while (true) {
    between.push_back(or_throw(arena.allocate(page, page)));
    auto const code = or_throw(arena.allocate(page, page));
    or_throw(arena.write(code, returning(7)));
    if (auto const done = arena.publish(); !done) {
      BOOST_TEST(fails(done, std::errc::not_enough_memory));
      or_throw(arena.retire(code));
      break;
    }
    all.push_back(code);
  }
  BOOST_TEST(all.size() > 10'000U);
  BOOST_TEST(or_throw(code_arena::create({.reserve = mib})).is_open()); // others have their share
  for (auto const& one : all) {
    or_throw(arena.retire(one));
  }
  BOOST_TEST(arena.reclaim().has_value());
  (void)or_throw(arena.reclaim());
  BOOST_TEST(arena.stats().retired == 0U);
  BOOST_TEST(run(published(arena, 8)) == 8U);
}

BOOST_AUTO_TEST_CASE(proc_has_the_strategy_with_two_addresses_and_says_what_that_is_worth) {
  auto const before = std::string{arena_of(code_strategy::dual).security_level()};
  armed const table;
  seam::fail(call::openat, ENOENT);
  auto arena = or_throw(code_arena::create({.reserve = mib}));
  BOOST_TEST((arena.strategy() == code_strategy::dual));
  BOOST_TEST(arena.security_level() != before);
  auto const code = published(arena, 6);
  BOOST_TEST(run(code) == 6);
  or_throw(arena.seal());
  BOOST_TEST(run(code) == 6);
}

BOOST_AUTO_TEST_CASE(membarrier_interrupts_all_threads_in_another_way) {
  for (int const error : {ENOSYS, EPERM, EINVAL}) {
    armed const table;
    seam::fail(call::membarrier, error);
    auto arena = arena_of(code_strategy::no_alias);
    BOOST_TEST(run(published(arena, 6)) == 6);
    BOOST_TEST(std::ranges::count(seam::calls(), call::mprotect) > 0);
  }
}

BOOST_AUTO_TEST_CASE(room_for_more_keeps_what_is_written_for_the_next_call) {
  auto arena = arena_of(code_strategy::no_alias);
  auto const code = or_throw(arena.allocate(6));
  or_throw(arena.write(code, returning(6)));
  {
    armed const table;
    seam::fail(call::pwrite, ENOSPC);
    BOOST_TEST(fails(arena.publish(), std::errc::no_space_on_device));
  }
  BOOST_TEST(!arena.find(code.address()).has_value());
  or_throw(arena.publish());
  BOOST_TEST(run(code) == 6);
  or_throw(arena.retire(code));
  {
    armed const table;
    seam::fail(call::pwrite, EIO);
    BOOST_TEST(fails(arena.reclaim(), std::errc::io_error));
  }
  BOOST_TEST(or_throw(arena.reclaim()) == 1);
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(several_threads)

// One publishes and another calls: with the address it has to see the code.
BOOST_AUTO_TEST_CASE(never_run_anything_older_than_what_they_were_told_of) {
  auto const rounds = std::getenv("FMMAP_THOROUGH") != nullptr ? std::uint32_t{1'000'000} : std::uint32_t{20'000};
  with_each([&](code_strategy one) {
    auto arena = arena_of(one, 256 * 1024);
    std::atomic<code_span const*> told{nullptr};
    std::atomic<std::uint64_t> answered{0}; // how many calls there were, and behind that what the last one returned
    std::atomic<std::uint64_t> writable{0};
    std::atomic<std::uint64_t> samples{0};
    std::uint64_t stale = 0;
    {
      std::jthread const caller{[&](std::stop_token const& stop) {
        std::uint64_t count = 0;
        while (!stop.stop_requested()) {
          if (auto const* const code = told.exchange(nullptr, std::memory_order_acquire); code != nullptr) {
            answered.store((++count << 32U) | run(*code), std::memory_order_release);
          }
        }
      }};
      std::jthread const sampler{[&](std::stop_token const& stop) {
        while (!stop.stop_requested()) {
          writable += writable_code().size();
          ++samples;
          std::this_thread::sleep_for(std::chrono::milliseconds{2});
        }
      }};
      for (std::uint32_t i = 1; i <= rounds; ++i) {
        auto const code = published(arena, i);
        told.store(&code, std::memory_order_release);
        auto seen = answered.load(std::memory_order_acquire);
        for (; seen >> 32U != i; seen = answered.load(std::memory_order_acquire)) {
        }
        stale += static_cast<std::uint32_t>(seen) == i ? 0 : 1;
        or_throw(arena.retire(code)); // so that it lies where another one has been
      }
    }
    BOOST_TEST(stale == 0U);
    BOOST_TEST(writable == 0U);
    std::cout << fmmap::to_string(one) << ": " << rounds << " published on one thread and called on another, " << stale
              << " stale, " << writable << " mappings writable and executable in " << samples << " samples\n";
  });
  std::cout << "asked for memory that is writable and executable: " << fmmap::os::asked_for_writable_code << '\n';
  BOOST_TEST(fmmap::os::asked_for_writable_code == 0U);
}

// Functions are retired and made anew while others run them under guards: what is reclaimed early is a trap or another answer.
BOOST_AUTO_TEST_CASE(run_nothing_that_was_reclaimed_early_and_all_is_reclaimed_in_the_end) {
  auto const rounds = std::getenv("FMMAP_THOROUGH") != nullptr ? std::uint32_t{200'000} : std::uint32_t{5'000};
  with_each([&](code_strategy one) {
    struct function {
      code_span code;
      std::uint32_t answer;
    };
    auto arena = arena_of(one, 256 * 1024);
    std::array<std::atomic<function const*>, 16> table{};
    std::vector<std::unique_ptr<function>> all;
    auto const add = [&](std::size_t place, std::uint32_t answer) {
      all.push_back(std::make_unique<function>(published(arena, answer), answer));
      return table[place].exchange(all.back().get());
    };
    for (std::size_t i = 0; i < table.size(); ++i) {
      add(i, static_cast<std::uint32_t>(i));
    }
    std::atomic<std::uint64_t> wrong{0};
    std::atomic<std::uint64_t> calls{0};
    {
      std::vector<std::jthread> callers;
      for (unsigned seed = 0; seed < 4; ++seed) {
        callers.emplace_back([&, seed](std::stop_token const& stop) {
          std::minstd_rand random{seed};
          while (!stop.stop_requested()) {
            code_arena::guard const running{arena};
            for (int i = 0; i < 10; ++i) {
              auto const* const chosen = table[random() % table.size()].load();
              wrong += run(chosen->code) == chosen->answer ? 0 : 1;
            }
            calls += 10;
          }
        });
      }
      for (std::uint32_t i = 0; i < rounds; ++i) {
        auto const* const old = add(i % table.size(), 1000 + i);
        or_throw(arena.retire(old->code));
      }
    }
    BOOST_TEST(wrong == 0U);
    BOOST_TEST(calls > 0U);
    or_throw(arena.reclaim());
    BOOST_TEST(arena.stats().retired == 0U);
    BOOST_TEST(arena.stats().functions == table.size());
  });
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(code_of_its_own)

BOOST_AUTO_TEST_CASE(runs_moves_and_is_sealed) {
  with_each([](code_strategy one) {
    auto made = or_throw(code_buffer::make(returning(5), one));
    BOOST_TEST(made.entry<int()>()() == 5);
    auto moved = std::move(made);
    BOOST_TEST(made.bytes().empty());
    BOOST_TEST(moved.entry<int()>()() == 5);
    BOOST_TEST(found_in_child([&](findings& found) { found.expect(moved.entry<int()>()() == 5, "in a child"); }) == "");
    moved = or_throw(code_buffer::make(returning(6), one));
    BOOST_TEST(moved.entry<int()>()() == 6);
  });
  BOOST_TEST(fails(code_buffer::make({}), errc::invalid_options));
  BOOST_TEST(writable_code().empty());
}

BOOST_AUTO_TEST_SUITE_END()
