// SPDX-License-Identifier: MIT OR Apache-2.0

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <expected>
#include <memory>
#include <memory_resource>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>

import fmmap.core;
import fmmap.os;
import fmmap.stack;
import fmmap.test.l0;

using fmmap::or_throw;
using fmmap::stack_pool;
using fmmap::os::call;
using l0::scenario;
using l0::trial;

namespace {

struct context {
  std::size_t size = 0;
  void* sp = nullptr;
};

// Where the system has no guards of its own there is another way; without huge pages there is nothing to keep off; memory that
// is to be given back may stay; of mappings that are allowed there is a number to go by.
std::vector<l0::tolerance> const anyhow{
    {call::madvise}, {call::openat}, {call::read}, {call::mincore}, {.call = call::close, .told = true}};

std::vector<scenario> const scenarios{
    {.name = "stacks of a pool",
     .calls = {"stack_pool::create", "stack_pool::allocate", "stack_pool::trim", "stack_pool::close"},
     .body =
         [](trial& t) {
           auto pool = or_throw(stack_pool::create({.stack_size = 16384, .capacity = 32, .resident_bytes = 4096}));
           {
             std::vector<fmmap::stack> all;
             for (int i = 0; i < 20; ++i) { // more than a thread keeps
               all.push_back(or_throw(pool.allocate()));
               std::fill_n(all.back().bottom(), all.back().size(), std::byte{1});
             }
             t.expect(all.front().high_water() == 16384, "it has not been so deep");
             t.expect(pool.stats().alive == 20, "there are more, or fewer");
           }
           t.expect(pool.stats().alive == 0, "they are not given back");
           or_throw(pool.trim());
           or_throw(pool.close());
         },
     .tolerated = anyhow},
    {.name = "stacks that are lent, and memory of one",
     .calls = {"stack_resource::create"},
     .body =
         [](trial& t) {
           auto pool = or_throw(stack_pool::create({.stack_size = 16384, .capacity = 4, .scrub = true}));
           auto const owner = or_throw(fmmap::stack_resource::create(pool));
           auto& resource = *owner;
           std::pmr::vector<int> numbers(100, 7, &resource);
           t.expect(numbers.back() == 7, "it has another content");
           fmmap::stack_allocator<context> lender{pool};
           try {
             auto lent = lender.allocate();
             lender.deallocate(lent);
           } catch (std::bad_alloc const&) {
             (void)or_throw(pool.allocate()); // says why, unless there is one now
           }
         },
     .tolerated = anyhow},
};

} // namespace

BOOST_AUTO_TEST_SUITE(whatever_call_fails)

BOOST_AUTO_TEST_CASE(no_stack_leaks_and_none_is_without_a_guard) {
  for (auto const& fault : l0::sweep_all(scenarios).faults) {
    BOOST_ERROR(fault);
  }
}

BOOST_AUTO_TEST_SUITE_END()
