// SPDX-License-Identifier: MIT OR Apache-2.0

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <coroutine>
#include <cstddef>
#include <expected>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>

import fmmap.async;
import fmmap.core;
import fmmap.os;
import fmmap.test.l0;

using fmmap::or_throw;
using fmmap::sync_wait;
using fmmap::task;
using fmmap::os::call;
using l0::scenario;
using l0::trial;

namespace {

struct at_once {
  void post(std::coroutine_handle<> next) noexcept { next.resume(); }
};

// Something that commits in two steps.
struct committing {
  fmmap::mutable_mapped_file& file;
  [[nodiscard]] auto stage_commit() const -> fmmap::result<fmmap::flush_job> { return file.stage_flush(); }
};

std::vector<scenario> const scenarios{
    {.name = "files of an engine",
     .calls = {"io_engine::create", "io_engine::close", "operation::await_resume", "resumed_operation::await_resume",
               "async_create", "async_resize", "async_flush", "async_open", "async_remove", "async_close"},
     .body =
         [](trial& t) {
           auto engine = or_throw(fmmap::io_engine::create({.threads = 1}));
           t.may_have("a");
           auto const work = [&]() -> task<> {
             auto file = or_throw(co_await fmmap::async_create(engine, t / "a", {.size = 4096}));
             or_throw(file.write_le<int>(0, 7));
             or_throw(co_await fmmap::async_resize(engine, file, 8192));
             (void)or_throw(co_await fmmap::async_flush(engine, file));
             auto const seen = or_throw(co_await fmmap::resume_on(at_once{}, fmmap::async_open(engine, t / "a")));
             t.expect(or_throw(seen.read_le<int>(0)) == 7, "it has another content");
             or_throw(co_await fmmap::async_remove(engine, file));
             t.lacks("a");
             or_throw(co_await fmmap::async_close(engine, std::move(file)));
           };
           sync_wait(work());
           or_throw(engine.close());
         },
     // Without a ring there are threads.
     .tolerated =
         {{call::fallocate, ENOSYS}, {call::fallocate, EOPNOTSUPP}, {call::io_uring_setup}, {call::io_uring_enter}}},
    {.name = "what changes in memory, and locks",
     .calls = {"async_open_mutable", "async_prefault", "async_commit", "async_lock", "async_call", "async_sleep",
               "write_behind::room", "write_behind::check"},
     .prepare = [](trial& t) { (void)t.file("a", std::string(4096, 'a')); },
     .body =
         [](trial& t) {
           t.has("a");
           auto engine = or_throw(fmmap::io_engine::create({.threads = 1}));
           auto const work = [&]() -> task<> {
             auto file = or_throw(co_await fmmap::async_open_mutable(engine, t / "a"));
             or_throw(co_await fmmap::async_prefault(engine, file));
             or_throw(file.write_le<int>(0, 7));
             committing all{file};
             (void)or_throw(co_await fmmap::async_commit(engine, all));
             auto lock = or_throw(fmmap::file_lock::create(file.as_file()));
             auto const held =
                 or_throw(co_await fmmap::async_lock(engine, lock, fmmap::lock_mode::exclusive, fmmap::no_wait));
             t.expect(held || t.failed(call::fcntl), "it is not held");
             if (held) {
               or_throw(lock.release());
             }
             or_throw(lock.close());
             or_throw(co_await fmmap::async_sleep(engine, std::chrono::microseconds{1}));
             {
               fmmap::write_behind behind{engine, file, {.interval = std::chrono::hours{1}}};
               or_throw(behind.check());
               or_throw(co_await behind.room());
             }
             or_throw(co_await fmmap::async_call(engine, [&] { return file.close(); }));
           };
           sync_wait(work());
           or_throw(engine.close());
         },
     // Contention, which is not waited for here; and what has another way.
     .tolerated = {{call::cachestat},
                   {call::fcntl, EAGAIN},
                   {call::fcntl, EACCES},
                   {call::fallocate, ENOSYS},
                   {call::fallocate, EOPNOTSUPP},
                   {call::sync_file_range, ENOSYS},
                   {call::sync_file_range, EINVAL},
                   {call::sync_file_range, EOPNOTSUPP},
                   {call::io_uring_setup},
                   {call::io_uring_enter}}},
    {.name = "files that others see whole",
     .calls = {"async_replace", "async_copy"},
     .prepare = [](trial& t) { (void)t.file("a", std::string(4096, 'a')); },
     .body =
         [](trial& t) {
           t.has("a");
           t.may_have("b");
           auto engine = or_throw(fmmap::io_engine::create({.threads = 1}));
           auto const work = [&]() -> task<> {
             auto file = or_throw(fmmap::file::open(t / "a"));
             (void)or_throw(co_await fmmap::async_copy(engine, file, t / "b"));
             or_throw(file.close());
             auto const fill = [](std::span<std::byte> bytes) { std::ranges::fill(bytes, std::byte{'n'}); };
             or_throw(co_await fmmap::async_replace(engine, t / "b", 3, fill, {.level = fmmap::durability::none}));
             t.expect(t.content("b") == "nnn", "it has another content");
           };
           sync_wait(work());
           or_throw(engine.close());
         },
     .tolerated = {{call::io_uring_setup},
                   {call::ioctl},
                   {call::copy_file_range},
                   {call::lseek, EINVAL},
                   {call::lseek, EOPNOTSUPP},
                   {call::fstatat},
                   {call::flock},
                   {call::fallocate, ENOSYS},
                   {call::fallocate, EOPNOTSUPP},
                   {call::openat, EINVAL}, // of a file without a name
                   {call::openat, EOPNOTSUPP},
                   {call::linkat, EPERM},
                   {call::linkat, EOPNOTSUPP}}},
};

} // namespace

BOOST_AUTO_TEST_SUITE(whatever_call_fails)

BOOST_AUTO_TEST_CASE(an_operation_tells_and_the_engine_goes_on) {
  l0::warm_up_threads(4);
  for (auto const& fault : l0::sweep_all(scenarios).faults) {
    BOOST_ERROR(fault);
  }
}

BOOST_AUTO_TEST_SUITE_END()
