// SPDX-License-Identifier: MIT OR Apache-2.0

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <expected>
#include <filesystem>
#include <memory>
#include <memory_resource>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>

#include "pmr/allocating.hpp"

import fmmap.core;
import fmmap.os;
import fmmap.pmr;
import fmmap.test.l0;

using fmmap::access;
using fmmap::durability;
using fmmap::errc;
using fmmap::mapped_resource;
using fmmap::mapping;
using fmmap::or_throw;
using fmmap::os::call;
using l0::scenario;
using l0::trial;

namespace {

constexpr std::size_t mib = std::size_t{1} << 20;
constexpr std::size_t large_size = 100'000;

// Grows once, in small blocks and in a large one, and holds what is written.
void use(trial& t, mapped_resource& in) {
  as_result([&] {
    std::pmr::vector<std::pmr::string> words{&in};
    words.assign(100, "a word that is too long to be kept in the object");
    std::pmr::vector<char> large(large_size, 'x', &in);
    auto const all = in.storage();
    auto const* const at = reinterpret_cast<std::byte const*>(words.back().data());
    t.expect(at >= all.data() && at < all.data() + all.size(), "its blocks lie elsewhere");
    t.expect(large[large_size - 1] == 'x', "it does not hold what is written");
  });
  t.expect(in.stats().used_bytes <= in.storage().size(), "it counts more than there is");
}

// Before Linux 5.14 nobody can be asked whether there is space behind the pages of a mapping.
std::vector<l0::tolerance> const over_a_mapping = [] {
  auto all = growing;
  all.push_back({call::madvise, EINVAL});
  return all;
}();

// What was created stays, and is the test's to remove.
struct removed_at_the_end {
  std::filesystem::path path;
  ~removed_at_the_end() { std::filesystem::remove(path); }
};

std::vector<scenario> const scenarios{
    {.name = "a resource over a file without a name",
     .calls = {"mapped_resource::temporary", "mapped_resource::flush"},
     .body =
         [](trial& t) {
           auto const owner = or_throw(mapped_resource::temporary(t / ".", {.reserve = 64 * mib}));
           auto& one = *owner;
           use(t, one);
           t.expect(or_throw(one.flush()) == durability::all, "it is not durable");
         },
     .tolerated = growing},
    {.name = "a resource over a new file, flushed in part",
     .calls = {"mapped_resource::create", "mapped_resource::close"},
     .body =
         [](trial& t) {
           auto const owner = or_throw(mapped_resource::create(t / "new", {.reserve = 64 * mib, .size = mib}));
           removed_at_the_end const created{t / "new"};
           auto& one = *owner;
           as_result([&] {
             auto* const block = one.allocate(10'000);
             std::memset(block, 'x', 10'000);
             t.expect(or_throw(one.flush(block, 10'000)) >= durability::data, "it is not durable");
             one.deallocate(block, 10'000);
           });
           or_throw(one.close());
         },
     .tolerated = growing},
    {.name = "a resource over an old file, flushed later",
     .calls = {"mapped_resource::open", "mapped_resource::stage_flush", "mapped_resource::rewrite"},
     .prepare = [](trial& t) { t.file("old", std::string(100'000, 'x')); },
     .body =
         [](trial& t) {
           auto owner = or_throw(mapped_resource::open(t / "old", {.reserve = 64 * mib}));
           auto& one = *owner;
           use(t, one);
           or_throw(one.rewrite());
           auto job = or_throw(one.stage_flush());
           owner.reset();
           t.expect(or_throw(job.run()) == durability::all, "it is not durable");
         },
     .tolerated = growing},
    {.name = "a resource over memory",
     .calls = {"mapped_resource::anonymous", "mapped_resource::trim"},
     .body =
         [](trial& t) {
           auto const owner = or_throw(mapped_resource::anonymous({.reserve = 64 * mib, .discard_from = 2 * mib}));
           auto& one = *owner;
           use(t, one);
           t.expect(or_throw(one.trim()) == one.storage().size(), "it keeps memory");
           use(t, one);
         },
     .tolerated = growing},
    {.name = "a resource over a mapping, which gives blocks back",
     .calls = {"mapped_resource::over"},
     .prepare = [](trial& t) { t.file("old", std::string(2 * mib, 'x')); },
     .body =
         [](trial& t) {
           auto const file = or_throw(fmmap::file::open(t / "old", {.access = access::read_write}));
           auto const owner =
               or_throw(mapped_resource::over(or_throw(mapping::map(file, {.access = access::read_write}))));
           auto& one = *owner;
           use(t, one);
           or_throw(one.trim());
           use(t, one);
         },
     .tolerated = over_a_mapping},
};

} // namespace

BOOST_AUTO_TEST_SUITE(whatever_call_fails)

BOOST_AUTO_TEST_CASE(no_resource_leaks_and_none_is_claimed_that_does_not_work) {
  for (auto const& fault : l0::sweep_all(scenarios).faults) {
    BOOST_ERROR(fault);
  }
}

BOOST_AUTO_TEST_SUITE_END()
