// SPDX-License-Identifier: MIT OR Apache-2.0
//
// What a program needs of Boost.Asio to wait for an operation: nothing but what it uses itself.

#include <exception>
#include <utility>

#include <boost/asio/bind_executor.hpp>
#include <boost/asio/io_context.hpp>
#ifndef __clang__ // which finds it in the module
#include <boost/asio/associated_cancellation_slot.hpp>
#endif
#include <boost/test/unit_test.hpp>

#include "support/scratch.hpp"

import fmmap.async;
import fmmap.async.asio;
import fmmap.core;

BOOST_AUTO_TEST_SUITE(a_program_with_few_headers)

BOOST_AUTO_TEST_CASE(is_called_back) {
  scratch const folder;
  auto const path = folder.file("a", "seven");
  auto engine = fmmap::or_throw(fmmap::io_engine::create());
  boost::asio::io_context context;
  auto length = 0U;
  fmmap::async_wait(fmmap::async_open(engine, path),
                    boost::asio::bind_executor(context, [&](std::exception_ptr, auto file) {
                      length = static_cast<unsigned>(fmmap::or_throw(std::move(file)).size());
                    }));
  context.run();
  BOOST_TEST(length == 5U);
}

BOOST_AUTO_TEST_SUITE_END()
