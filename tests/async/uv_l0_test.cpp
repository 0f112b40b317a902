// SPDX-License-Identifier: MIT OR Apache-2.0

#include <cerrno>
#include <coroutine>
#include <exception>
#include <expected>
#include <filesystem>
#include <vector>

#include <boost/test/unit_test.hpp>
#include <uv.h>

#include "support/engines.hpp"

import fmmap.async;
import fmmap.async.uv;
import fmmap.core;
import fmmap.os;
import fmmap.test.l0;

using fmmap::or_throw;
using fmmap::task;
using fmmap::os::call;
using l0::scenario;
using l0::trial;

namespace {

std::vector<scenario> const scenarios{
    {.name = "a file on a loop",
     .calls = {"uv_executor::create"},
     .body =
         [](trial& t) {
           t.may_have("a");
           auto const engine = or_throw(fmmap::io_engine::create({.kind = fmmap::engine_kind::threads, .threads = 1}));
           uv_loop_t loop;
           t.expect(::uv_loop_init(&loop) == 0, "there is no loop");
           std::exception_ptr thrown;
           {
             auto executor = or_throw(fmmap::uv_executor::create(loop));
             auto const work = [&]() -> task<> {
               try {
                 auto file = or_throw(
                     co_await fmmap::resume_on(executor, fmmap::async_create(engine, t / "a", {.size = 4096})));
                 or_throw(file.write_le<int>(0, 7));
                 (void)or_throw(co_await fmmap::resume_on(executor, fmmap::async_flush(engine, file)));
               } catch (...) {
                 thrown = std::current_exception();
               }
             };
             auto const all = work();
             begin(all);
             (void)::uv_run(&loop, UV_RUN_DEFAULT);
           }
           (void)::uv_run(&loop, UV_RUN_DEFAULT);
           t.expect(::uv_loop_close(&loop) == 0, "the loop is not closed");
           if (thrown) {
             std::rethrow_exception(thrown);
           }
         },
     .tolerated = {{call::fallocate, ENOSYS}, {call::fallocate, EOPNOTSUPP}}},
};

} // namespace

BOOST_AUTO_TEST_SUITE(whatever_call_fails)

BOOST_AUTO_TEST_CASE(an_operation_tells_and_the_loop_ends) {
  l0::warm_up_threads(3);
  uv_loop_t first; // and what libuv keeps for the next ones
  BOOST_TEST_REQUIRE(::uv_loop_init(&first) == 0);
  BOOST_TEST_REQUIRE(::uv_loop_close(&first) == 0);
  for (auto const& fault : l0::sweep_all(scenarios).faults) {
    BOOST_ERROR(fault);
  }
}

BOOST_AUTO_TEST_SUITE_END()
