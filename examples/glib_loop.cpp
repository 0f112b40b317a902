// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Writes a file on a main loop of GLib, which goes on meanwhile: glib_loop FILE MEBIBYTES
//
// docs/async.md says how an executor for another loop is written; this one's follows it.

#include <algorithm>
#include <charconv>
#include <coroutine>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <expected>
#include <filesystem>
#include <iostream>
#include <memory>
#include <thread>
#include <utility>

#include <glib.h>

import fmmap;

namespace {

// Resumes coroutines on the thread that runs the loop of a context.
class glib_executor {
public:
  explicit glib_executor(GMainContext* context) : context_{g_main_context_ref(context), g_main_context_unref} {}

  void post(std::coroutine_handle<> next) noexcept {
    auto* const source = g_idle_source_new();
    g_source_set_priority(source, G_PRIORITY_DEFAULT);
    g_source_set_callback(source, &glib_executor::resume, next.address(), nullptr);
    g_source_attach(source, context_.get());
    g_source_unref(source);
  }

private:
  static auto resume(void* frame) -> gboolean {
    std::coroutine_handle<>::from_address(frame).resume();
    return G_SOURCE_REMOVE;
  }

  std::shared_ptr<GMainContext> context_;
};
static_assert(fmmap::executor<glib_executor>);

// A coroutine that nobody waits for.
struct detached {
  struct promise_type {
    auto get_return_object() const noexcept -> detached { return {}; }
    auto initial_suspend() const noexcept -> std::suspend_never { return {}; }
    auto final_suspend() const noexcept -> std::suspend_never { return {}; }
    void return_void() const noexcept {}
    void unhandled_exception() const noexcept { std::terminate(); }
  };
};

struct outcome {
  std::exception_ptr thrown;
  bool was_always_here = true; // on the thread of the loop
};

auto write_file(fmmap::io_engine const& engine, GMainLoop* loop, std::filesystem::path path, std::size_t size,
                outcome& out) -> detached {
  glib_executor const executor{g_main_loop_get_context(loop)};
  auto const self = std::this_thread::get_id();
  auto const look = [&] { out.was_always_here = out.was_always_here && std::this_thread::get_id() == self; };
  try {
    fmmap::write_options const options{.size = size};
    auto file = fmmap::or_throw(
        co_await fmmap::resume_on(auto{executor}, fmmap::async_open_mutable(engine, std::move(path), options)));
    look();
    std::ranges::fill(file.writable_bytes(), std::byte{'a'});
    (void)fmmap::or_throw(co_await fmmap::resume_on(auto{executor}, fmmap::async_flush(engine, file)));
    look();
    fmmap::or_throw(co_await fmmap::resume_on(auto{executor}, fmmap::async_close(engine, std::move(file))));
    look();
  } catch (...) {
    out.thrown = std::current_exception();
  }
  g_main_loop_quit(loop);
}

} // namespace

auto main(int argc, char** argv) -> int try {
  std::size_t mebibytes = 0;
  if (argc != 3 || std::from_chars(argv[2], argv[2] + std::strlen(argv[2]), mebibytes).ec != std::errc{}) {
    std::cerr << "usage: glib_loop FILE MEBIBYTES\n";
    return 2;
  }
  std::unique_ptr<GMainLoop, decltype(&g_main_loop_unref)> const loop{g_main_loop_new(nullptr, FALSE),
                                                                      &g_main_loop_unref};
  auto const engine = fmmap::or_throw(fmmap::io_engine::create());
  outcome out;
  write_file(engine, loop.get(), argv[1], mebibytes << 20, out);
  int ticks = 0;
  auto const tick = [](void* count) -> gboolean {
    ++*static_cast<int*>(count);
    return G_SOURCE_CONTINUE;
  };
  g_timeout_add(1, tick, &ticks);
  g_main_loop_run(loop.get());
  if (out.thrown) {
    std::rethrow_exception(out.thrown);
  }
  std::cout << mebibytes << " MiB written and flushed, " << ticks << " ticks of the loop meanwhile\n";
  return out.was_always_here ? 0 : 1;
} catch (std::exception const& why) {
  std::cerr << why.what() << '\n';
  return 1;
}
