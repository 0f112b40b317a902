// SPDX-License-Identifier: MIT OR Apache-2.0

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <memory_resource>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <boost/test/unit_test.hpp>

#include <unistd.h>

#include "exec/strategies.hpp"

import fmmap.core;
import fmmap.exec;
import fmmap.os;
import fmmap.test.l0;

using fmmap::code_arena;
using fmmap::code_buffer;
using fmmap::code_span;
using fmmap::code_strategy;
using fmmap::exec_resource;
using fmmap::or_throw;
using fmmap::os::call;
using l0::scenario;
using l0::trial;

namespace {

// An address near the program may be taken, and the next one is tried; without membarrier there is another way; an older
// system does not know a flag of memory files; where there is no room for much, there may be for less.
std::vector<l0::tolerance> const anyhow = [] {
  std::vector<l0::tolerance> all{
      {call::mmap}, {call::membarrier}, {call::memfd_create, EINVAL}, {.call = call::close, .told = true}};
  for (auto const which : {call::fallocate, call::pwrite, call::mprotect, call::mremap}) {
    for (int const error : {ENOSPC, ENOMEM, EDQUOT, EFBIG}) {
      all.push_back({which, error});
    }
  }
  return all;
}();

// Without /proc the code is mapped by the descriptor that can write, and is sealed in another way.
std::vector<l0::tolerance> const with_another_address = [] {
  auto all = anyhow;
  all.push_back({call::openat});
  all.push_back({call::fcntl, EBUSY});
  return all;
}();

std::vector<l0::tolerance> const sealed_later = [] {
  auto all = anyhow;
  all.push_back({call::fcntl, EBUSY});
  return all;
}();

// A list that cannot be written keeps no code from running.
std::vector<l0::tolerance> const listed = [] {
  auto all = anyhow;
  all.push_back({.call = call::write, .told = true});
  return all;
}();

auto run(code_span code) -> int { return code.entry<int()>()(); }

constexpr std::size_t reserve = std::size_t{1} << 20;

auto with(code_strategy strategy, std::vector<l0::tolerance> const& tolerated) -> scenario {
  scenario made{.name = "an arena",
                .calls = {"code_arena::create", "code_arena::allocate", "code_arena::write", "code_arena::publish",
                          "code_arena::retire", "code_arena::reclaim", "code_arena::seal", "code_arena::close"},
                .body =
                    [strategy](trial& t) {
                      auto arena = or_throw(code_arena::create({.reserve = reserve, .strategy = strategy}));
                      auto const first = or_throw(arena.allocate(6));
                      auto const second = or_throw(arena.allocate(6));
                      or_throw(arena.write(first, returning(1)));
                      or_throw(arena.write(second, returning(2)));
                      auto const published = arena.publish();
                      t.expect(published || !arena.find(first.address()), "it is published, and is not");
                      or_throw(published);
                      t.expect(run(first) == 1 && run(second) == 2, "another function runs");
                      or_throw(arena.retire(first));
                      t.expect(or_throw(arena.reclaim()) == 1, "it is not reclaimed");
                      t.expect(first.bytes()[0] != returning(1)[0], "what is reclaimed is no trap");
                      or_throw(arena.seal());
                      t.expect(run(second) == 2, "what is sealed does not run");
                      or_throw(arena.close());
                    },
                .tolerated = tolerated};
  made.name = fmmap::to_string(strategy);
  return made;
}

std::vector<scenario> const scenarios{
    with(code_strategy::no_alias, sealed_later),
    with(code_strategy::dual, with_another_address),
    with(code_strategy::toggle, anyhow),
    {.name = "an arena that is listed",
     .calls = {"code_arena::create", "code_arena::write", "code_arena::publish"},
     .body =
         [](trial& t) {
           auto const path = "/tmp/perf-" + std::to_string(::getpid()) + ".map";
           std::filesystem::remove(path);
           auto arena = or_throw(code_arena::create(
               {.reserve = reserve, .strategy = code_strategy::no_alias, .perf_map = true, .debugger = true}));
           auto const code = or_throw(arena.allocate(6));
           or_throw(arena.write(code, returning(5), "five"));
           or_throw(arena.publish());
           t.expect(run(code) == 5, "another function runs");
           std::ifstream lines{path};
           std::string const text{std::istreambuf_iterator{lines}, {}};
           t.expect(text.ends_with(" 6 five\n") || t.failed(call::write), "the list is wrong");
           or_throw(arena.close());
           std::filesystem::remove(path);
         },
     .tolerated = listed},
    {.name = "a vector of code",
     .calls = {"exec_resource::create", "exec_resource::flush"},
     .body =
         [](trial& t) {
           auto arena = or_throw(code_arena::create({.reserve = reserve, .strategy = code_strategy::no_alias}));
           auto const owner = or_throw(exec_resource::create(arena));
           auto& resource = *owner;
           std::pmr::vector<std::byte> code{&resource};
           auto const bytes = returning(3);
           code.assign(bytes.begin(), bytes.end());
           or_throw(resource.flush());
           t.expect(resource.entry<int()>(code.data())() == 3, "another function runs");
         },
     .tolerated = anyhow},
    {.name = "code of its own",
     .calls = {"code_buffer::make"},
     .body =
         [](trial& t) {
           auto const code = or_throw(code_buffer::make(returning(4), code_strategy::no_alias));
           t.expect(code.entry<int()>()() == 4, "another function runs");
         },
     .tolerated = sealed_later},
};

} // namespace

BOOST_AUTO_TEST_SUITE(whatever_call_fails)

BOOST_AUTO_TEST_CASE(no_code_leaks_and_none_is_claimed_that_does_not_run) {
  for (auto const& fault : l0::sweep_all(scenarios).faults) {
    BOOST_ERROR(fault);
  }
}

BOOST_AUTO_TEST_SUITE_END()
