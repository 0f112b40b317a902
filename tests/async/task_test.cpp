// SPDX-License-Identifier: MIT OR Apache-2.0

#include <coroutine>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>

#include "support/engines.hpp"

import fmmap.async;

using fmmap::sync_wait;
using fmmap::task;
using fmmap::when_all;

static_assert(!std::is_copy_constructible_v<task<int>>);
static_assert(std::is_nothrow_move_constructible_v<task<int>>);

namespace {

// Goes on on a thread of its own.
struct elsewhere {
  std::vector<std::jthread>& threads;
  [[nodiscard]] auto await_ready() const noexcept -> bool { return false; }
  void await_suspend(std::coroutine_handle<> next) const {
    threads.emplace_back([next] { next.resume(); });
  }
  void await_resume() const noexcept {}
};

struct never {
  [[nodiscard]] auto await_ready() const noexcept -> bool { return false; }
  void await_suspend(std::coroutine_handle<>) const noexcept {}
  void await_resume() const noexcept {}
};

auto number(int value) -> task<int> { co_return value; }

auto number_elsewhere(std::vector<std::jthread>& threads, int value) -> task<int> {
  co_await elsewhere{threads};
  co_return value;
}

auto failure(std::string what) -> task<int> {
  throw std::runtime_error{what};
  co_return 0;
}

auto nothing(bool& done) -> task<> {
  done = true;
  co_return;
}

} // namespace

BOOST_AUTO_TEST_SUITE(a_task)

BOOST_AUTO_TEST_CASE(begins_when_it_is_awaited) {
  bool done = false;
  {
    auto const unawaited = nothing(done);
    BOOST_TEST(!done);
  }
  BOOST_TEST(!done);
  sync_wait(nothing(done));
  BOOST_TEST(done);
}

BOOST_AUTO_TEST_CASE(gives_what_its_coroutine_returns_or_throws) {
  BOOST_TEST(sync_wait(number(7)) == 7);
  BOOST_CHECK_THROW(sync_wait(failure("lost")), std::runtime_error);
  auto const moved = sync_wait([]() -> task<std::unique_ptr<int>> { co_return std::make_unique<int>(3); }());
  BOOST_TEST(*moved == 3);
}

BOOST_AUTO_TEST_CASE(awaits_others_to_any_depth) {
  struct deep {
    static auto down(int depth) -> task<int> {
      if (depth == 0) { // not by ?:, of which g++ 16 awaits either side
        co_return 0;
      }
      co_return 1 + co_await down(depth - 1);
    }
  };
  BOOST_TEST(sync_wait(deep::down(1000)) == 1000);
  auto const many = [](int count) -> task<int> {
    int sum = 0;
    for (int i = 0; i < count; ++i) {
      sum += co_await number(1);
    }
    co_return sum;
  };
  BOOST_TEST(sync_wait(many(1000)) == 1000);
}

BOOST_AUTO_TEST_CASE(drops_what_it_awaits) {
  struct noted {
    bool* gone;
    explicit noted(bool& note) noexcept : gone{&note} {}
    noted(noted const&) = delete;
    auto operator=(noted const&) -> noted& = delete;
    ~noted() { *gone = true; }
  };
  bool gone = false;
  auto const inner = [](bool& note) -> task<> {
    noted const local{note};
    co_await never{};
  };
  auto const outer = [&]() -> task<> { co_await inner(gone); };
  {
    auto dropped = outer();
    begin(dropped);
    BOOST_TEST(!gone);
  }
  BOOST_TEST(gone);
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(when_all_are_awaited)

BOOST_AUTO_TEST_CASE(values_come_in_order) {
  std::vector<std::jthread> threads;
  bool done = false;
  auto const [first, second, third] = sync_wait(when_all(number(1), number_elsewhere(threads, 2), nothing(done)));
  BOOST_TEST(first == 1);
  BOOST_TEST(second == 2);
  BOOST_TEST((third == std::tuple<>{}));
  BOOST_TEST(done);
  std::vector<task<int>> many;
  for (int i = 0; i < 50; ++i) {
    many.push_back(i % 5 == 0 ? number_elsewhere(threads, i) : number(i));
  }
  auto const values = sync_wait(when_all(std::move(many)));
  BOOST_TEST_REQUIRE(values.size() == 50U);
  for (int i = 0; i < 50; ++i) {
    BOOST_TEST(values[static_cast<std::size_t>(i)] == i);
  }
  BOOST_TEST(sync_wait(when_all(std::vector<task<int>>{})).empty());
}

BOOST_AUTO_TEST_CASE(the_first_failure_in_order_is_thrown_when_all_are_over) {
  std::vector<std::jthread> threads;
  try {
    (void)sync_wait(when_all(number_elsewhere(threads, 1), failure("one"), failure("two")));
    BOOST_ERROR("nothing was thrown");
  } catch (std::runtime_error const& why) {
    BOOST_TEST(why.what() == std::string{"one"});
  }
}

BOOST_AUTO_TEST_SUITE_END()
