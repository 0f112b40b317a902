// SPDX-License-Identifier: MIT OR Apache-2.0

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <filesystem>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>

#include "support/scratch.hpp"

import fmmap.core;
import fmmap.lock;
import fmmap.os;
import fmmap.test.l0;

using fmmap::access;
using fmmap::file;
using fmmap::file_lock;
using fmmap::lock_kind;
using fmmap::lock_mode;
using fmmap::or_throw;
using fmmap::whole;
using fmmap::os::call;
using l0::scenario;
using l0::trial;
using namespace std::chrono_literals;

namespace {

constexpr auto shared = lock_mode::shared;
constexpr auto exclusive = lock_mode::exclusive;
std::string const content = pattern(5000);

void with_data(trial& t) { t.file("data", content); }
void keeps_data(trial& t) { t.expect(t.content("data") == content, "the file has changed"); }

auto writable(trial const& t, std::string_view name = "data") -> file {
  return or_throw(file::open(t / name, {.access = access::read_write}));
}

// Somebody who is in the way, from the preparation of a run to the next.
std::optional<file_lock> in_the_way;

void taken(trial& t) {
  with_data(t);
  in_the_way = or_throw(file_lock::create(writable(t)));
  or_throw(in_the_way->acquire(shared));
}

// After contention another way is gone, in which it turns out that the lock can be had.
// What is held is unlocked before it is closed, which would do as well: of a failure only the handler hears.
constexpr l0::tolerance unlocking{.call = call::fcntl, .told = true};

std::vector<l0::tolerance> const contention{
    {call::fcntl, EAGAIN}, {call::fcntl, EACCES}, {call::flock, EAGAIN}, unlocking};

// The wait polls, and the handler of dropped errors is told.
std::vector<l0::tolerance> const limited{{call::fcntl, EAGAIN}, {call::fcntl, EACCES},   unlocking,
                                         {call::sigaction},     {call::timer_create},    {call::timer_settime},
                                         {call::timer_delete},  {call::pthread_sigmask}, {call::clock_nanosleep}};

// An interrupted wait is over when a stop has been requested.
std::vector<l0::tolerance> const stopped = [] {
  auto all = limited;
  all.push_back({call::fcntl, EINTR});
  return all;
}();

std::vector<scenario> const scenarios{
    {.name = "a lock of a file",
     .calls = {"file_lock::create", "file_lock::acquire", "file_lock::try_acquire", "file_lock::release",
               "file_lock::close"},
     .prepare = with_data,
     .body =
         [](trial& t) {
           auto const data = writable(t);
           auto one = or_throw(file_lock::create(data));
           auto two = or_throw(file_lock::create(data, {.offset = 10, .length = 5}));
           or_throw(one.acquire(exclusive));
           t.expect(!or_throw(two.try_acquire(shared)), "two have it");
           or_throw(one.release());
           t.expect(!one.held(), "it is held after its release");
           t.expect(or_throw(two.try_acquire(exclusive)) || t.failed(call::fcntl), "nobody has it, and it is not had");
           or_throw(two.close());
           or_throw(one.acquire(shared));
         },
     .when_done = keeps_data,
     .when_failed = keeps_data,
     .tolerated = contention},
    {.name = "a lock of a file without /proc",
     .calls = {"file_lock::create"},
     .prepare = with_data,
     .body =
         [](trial& t) {
           auto lock = or_throw(file_lock::create(writable(t)));
           or_throw(lock.acquire(exclusive));
         },
     .tolerated = contention,
     .absent = {{.call = call::openat, .error = ENOENT, .times = 1, .spared = 1}}},
    {.name = "a lock that changes its mode",
     .calls = {"file_lock::try_upgrade", "file_lock::upgrade_for", "file_lock::downgrade"},
     .prepare = with_data,
     .body =
         [](trial& t) {
           auto lock = or_throw(file_lock::create(writable(t)));
           or_throw(lock.acquire(shared));
           if (or_throw(lock.try_upgrade())) {
             or_throw(lock.downgrade());
           } else {
             t.expect(t.failed(call::fcntl), "it was not upgraded though it could be");
           }
           t.expect(lock.held() == shared, "it is not shared");
           auto const upgraded = or_throw(lock.upgrade_for(5ms));
           t.expect(upgraded || t.failed(call::fcntl), "it was not upgraded though it could be");
           t.expect(lock.held() == (upgraded ? exclusive : shared), "it is held in another mode");
         },
     .tolerated = limited},
    {.name = "a lock by flock",
     .calls = {"file_lock::acquire", "file_lock::release", "file_lock::downgrade"},
     .prepare = with_data,
     .body =
         [](trial& t) {
           auto lock = or_throw(file_lock::create(writable(t), whole, lock_kind::flock));
           or_throw(lock.acquire(exclusive));
           or_throw(lock.downgrade());
           or_throw(lock.release());
         },
     .tolerated = contention},
    {.name = "waits with a limit",
     .calls = {"file_lock::acquire_for", "file_lock::acquire_until", "file_lock::upgrade_for"},
     .prepare = taken,
     .body =
         [](trial& t) {
           auto lock = or_throw(file_lock::create(writable(t)));
           t.expect(!or_throw(lock.acquire_for(exclusive, 1ms)), "it was had while another has it");
           t.expect(!or_throw(lock.acquire_until(exclusive, std::chrono::system_clock::now() + 1ms)), "it was had");
           t.expect(!lock.held(), "it says it is held");
           or_throw(lock.acquire(shared));
           t.expect(!or_throw(lock.try_upgrade()), "it was upgraded");
           t.expect(!or_throw(lock.upgrade_for(1ms)), "it was upgraded");
           t.expect(lock.held() == shared, "the refused upgrade has lost it");
         },
     .tolerated = limited},
    {.name = "waits with a limit without timers",
     .calls = {"file_lock::acquire_for"},
     .prepare = taken,
     .body =
         [](trial& t) {
           auto lock = or_throw(file_lock::create(writable(t)));
           t.expect(!or_throw(lock.acquire_for(exclusive, 1ms)), "it was had while another has it");
           t.expect(lock.method() == fmmap::wait_method::polling, "it did not poll");
         },
     .tolerated = limited,
     .absent = {{.call = call::timer_create, .error = ENOSYS}}},
    {.name = "a wait that is stopped",
     .calls = {"file_lock::acquire_for"},
     .prepare = taken,
     .body =
         [](trial& t) {
           auto lock = or_throw(file_lock::create(writable(t)));
           std::stop_source source;
           fmmap::os::seam::observe([&](auto const& what) { // on this thread, once it is about to wait in either way
             if (what.over && (what.which == call::timer_settime || what.which == call::clock_nanosleep)) {
               source.request_stop();
             }
           });
           auto const acquired = lock.acquire_for(exclusive, 2ms, source.get_token()); // its timer may not be set again
           fmmap::os::seam::observe({});
           if (acquired || acquired.error() != std::errc::operation_canceled) {
             t.expect(!or_throw(acquired), "it was had while another has it");
           }
           t.expect(!lock.held(), "it says it is held");
         },
     .tolerated = stopped},
    {.name = "choosing the signal",
     .calls = {"set_lock_signal"},
     .body =
         [](trial& t) {
           auto const before = fmmap::lock_signal();
           auto const set = fmmap::set_lock_signal(SIGRTMIN + 7);
           t.expect(fmmap::lock_signal() == (set ? SIGRTMIN + 7 : before), "a failed call has changed the signal");
           or_throw(set);
         }},
    {.name = "locks of two files",
     .calls = {"lock_all", "lock_set::release"},
     .prepare =
         [](trial& t) {
           with_data(t);
           t.file("other", content);
         },
     .body =
         [](trial& t) {
           auto const data = writable(t);
           auto const other = writable(t, "other");
           auto set =
               or_throw(fmmap::lock_all({{data, whole, exclusive}, {other, {.offset = 0, .length = 9}, shared}}));
           t.expect(set.locks().size() == 2, "another number of locks is held");
           or_throw(set.release());
         },
     .tolerated = contention},
    {.name = "listing who has a lock",
     .calls = {"who_holds"},
     .prepare = taken,
     .body =
         [](trial& t) {
           auto const holders = or_throw(fmmap::who_holds(writable(t)));
           t.expect(holders.size() == 1 && holders.at(0).mode == shared, "it lists something else");
         },
     .tolerated = {{call::openat},
                   {call::openat2},
                   {call::read},
                   {call::fstat},
                   {call::poll},
                   {call::getdents64},
                   {call::close},
                   {call::fcntl}}},
    {.name = "a file that is opened and locked",
     .calls = {"open_locked"},
     .prepare = with_data,
     .body =
         [](trial& t) {
           auto const opened = or_throw(fmmap::open_locked(t / "data"));
           t.expect(text_of(opened.file.bytes()) == content, "it has other bytes");
           t.expect(opened.lock.held() == exclusive, "it is not locked");
         },
     .when_done = keeps_data,
     .when_failed = keeps_data,
     .tolerated = contention},
    {.name = "a file that is opened, locked and cut",
     .calls = {"open_locked"},
     .prepare = with_data,
     .body =
         [](trial& t) {
           auto const opened = or_throw(fmmap::open_locked(t / "data", {.truncate = true, .mapping = {.size = 10}}));
           t.expect(opened.file.size() == 10, "it has another size");
         },
     .when_done = [](trial& t) { t.expect(t.content("data") == std::string(10, '\0'), "it was not cut"); },
     .when_failed =
         [](trial& t) {
           auto const left = t.content("data");
           t.expect(left == content || left.empty() || left == std::string(10, '\0'), "it has something else in it");
         },
     .tolerated = {{call::fcntl, EAGAIN},
                   {call::fcntl, EACCES},
                   unlocking,
                   {call::fallocate, ENOSYS},
                   {call::fallocate, EOPNOTSUPP},
                   {call::pread}}},
    {.name = "a file that is created under a lock",
     .calls = {"open_locked"},
     .body =
         [](trial& t) {
           t.may_have("new"); // from its creation to its lock, somebody else may have come to use it
           auto const opened =
               or_throw(fmmap::open_locked(t / "new", {.mapping = {.size = 10, .sync_directory = true}}));
           t.expect(opened.file.size() == 10, "it has another size");
         },
     .tolerated = {{call::fcntl, EAGAIN},
                   {call::fcntl, EACCES},
                   unlocking,
                   {call::fallocate, ENOSYS},
                   {call::fallocate, EOPNOTSUPP},
                   {call::pread}}},
    {.name = "a file that is opened under a shared lock",
     .calls = {"open_locked_for_reading"},
     .prepare = taken,
     .body =
         [](trial& t) {
           auto const opened = or_throw(fmmap::open_locked_for_reading(t / "data"));
           t.expect(text_of(opened.file.bytes()) == content, "it has other bytes");
         },
     .tolerated = contention},
};

} // namespace

BOOST_AUTO_TEST_SUITE(whatever_call_fails)

BOOST_AUTO_TEST_CASE(no_lock_leaks_and_none_is_claimed_that_is_not_held) {
  for (auto const& fault : l0::sweep_all(scenarios).faults) {
    BOOST_ERROR(fault);
  }
  in_the_way.reset();
}

BOOST_AUTO_TEST_SUITE_END()

// Scenarios with mistakes that only locks can have.
BOOST_AUTO_TEST_SUITE(the_sweep_of_locks_catches)

BOOST_AUTO_TEST_CASE(an_error_that_is_taken_for_contention) {
  auto const r = l0::sweep({.name = "seeded silence", .calls = {}, .prepare = with_data, .body = [](trial& t) {
                              auto lock = or_throw(file_lock::create(writable(t)));
                              (void)lock.try_acquire(exclusive).value_or(false);
                            }});
  BOOST_TEST(!r.faults.empty());
  BOOST_TEST(r.faults.front().find("claims success though fcntl failed") != std::string::npos, r.faults.front());
}

BOOST_AUTO_TEST_SUITE_END()
