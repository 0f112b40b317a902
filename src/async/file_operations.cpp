// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <chrono>
#include <cstddef>
#include <exception>
#include <expected>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>
#include <utility>

module fmmap.async;

import fmmap.core;
import fmmap.lock;

namespace fmmap {

namespace {

// A lock that nobody will be told of is released.
class lock_acquisition final : public request_for<bool> {
public:
  lock_acquisition(io_engine const& engine, file_lock& lock, lock_mode mode, wait_for limit,
                   std::stop_token stop) noexcept
      : request_for{operation_access::state_of(engine), std::move(stop), true},
        lock_{lock},
        mode_{mode},
        limit_{limit} {}

private:
  using clock = std::chrono::steady_clock;

  auto perform(bool may_wait, std::stop_token const& stop) noexcept -> progress override {
    if (may_wait) {
      attempt([&] { return lock_.acquire_for(mode_, rest_of_limit(), stop); });
      return progress::done;
    }
    attempt([&] {
      auto got = lock_.try_acquire(mode_);
      if (got && *got) {
        lock_.disown(); // for this thread does others' work
      }
      return got;
    });
    auto const is_over = !outcome_ || !*outcome_ || **outcome_ || limit_ == no_wait; // what was thrown is no outcome
    return is_over ? progress::done : progress::has_to_wait;
  }

  void drop() noexcept override {
    if (outcome_ && *outcome_ && **outcome_) {
      lock_.unlock();
    }
    request_for::drop();
  }

  [[nodiscard]] auto deadline() const noexcept -> clock::time_point override {
    auto const rest = rest_of_limit();
    auto const now = clock::now();
    return rest == forever || rest.limit() >= clock::time_point::max() - now ? clock::time_point::max()
                                                                             : now + rest.limit();
  }
  [[nodiscard]] auto begin_limit() noexcept -> bool override {
    began_ = clock::now();
    return limit_ != no_wait;
  }
  void expire() noexcept override { outcome_.emplace(false); }

  [[nodiscard]] auto rest_of_limit() const noexcept -> wait_for {
    return limit_ == forever ? forever : wait_for{limit_.limit() - (clock::now() - began_)};
  }

  file_lock& lock_;
  lock_mode const mode_;
  wait_for const limit_;
  clock::time_point began_;
};

// A flush, which others of the same file may join.
class flushing final : public request_for<durability> {
public:
  flushing(io_engine const& engine, std::unique_ptr<flush_work> work, std::stop_token stop) noexcept
      : request_for{operation_access::state_of(engine), std::move(stop), false},
        work_{std::move(work)},
        target_{work_->target()} {}

private:
  auto perform(bool /*may_wait*/, std::stop_token const& /*stop*/) noexcept -> progress override {
    attempt([this] {
      auto const mine = std::move(work_); // what it has goes here, and not where it is waited for
      if (broken_) {
        std::rethrow_exception(std::exchange(broken_, nullptr));
      }
      return mine->run();
    });
    return progress::done;
  }

  [[nodiscard]] auto target() const noexcept -> void const* override { return target_; }
  [[nodiscard]] auto absorb(request const& other) noexcept -> bool override {
    return work_->absorb(*static_cast<flushing const&>(other).work_); // nothing else has a target
  }
  void share(request const& of) noexcept override {
    auto const& leader = static_cast<flushing const&>(of);
    outcome_ = leader.outcome_;
    thrown_ = leader.thrown_;
    work_.reset();
  }
  [[nodiscard]] auto next_call() noexcept -> std::optional<sync_call> override {
    std::optional<sync_call> next;
    unless_broken([&] { next = work_->next_call(); });
    return next;
  }
  void call_made(int code) noexcept override {
    unless_broken([&] { work_->call_made(code); });
  }
  [[nodiscard]] auto is_over() noexcept -> bool override {
    bool is_it = false;
    unless_broken([&] { is_it = work_->is_over(); });
    return broken_ || is_it;
  }

  // What it throws, as one of the program's may, is told where the flush is awaited.
  template <class Step>
  void unless_broken(Step step) noexcept {
    if (!broken_) {
      try {
        step();
      } catch (...) {
        broken_ = std::current_exception();
      }
    }
  }

  std::unique_ptr<flush_work> work_;
  std::exception_ptr broken_;
  void const* const target_;
};

// What there is to do is over when it begins.
class sleeping final : public request_for<void> {
public:
  using request_for::request_for;

private:
  auto perform(bool /*may_wait*/, std::stop_token const& /*stop*/) noexcept -> progress override {
    outcome_.emplace();
    return progress::done;
  }
};

} // namespace

auto sleep_on(std::shared_ptr<engine_state> engine, std::chrono::nanoseconds time, std::stop_token stop)
    -> operation<void> {
  return operation<void>{std::make_shared<sleeping>(std::move(engine), std::move(stop), time)};
}

auto async_sleep(io_engine const& engine, std::chrono::nanoseconds time, std::stop_token stop) -> operation<void> {
  return sleep_on(operation_access::state_of(engine), time, std::move(stop));
}

auto run_staged(io_engine const& engine, result<flush_job> job, std::stop_token stop) -> operation<durability> {
  if (!job) {
    return operation<durability>{std::move(job).error()};
  }
  auto work = job->take_work();
  if (!work) {
    return operation<durability>{error::make(errc::already_run, "run a staged flush")};
  }
  return operation<durability>{std::make_shared<flushing>(engine, std::move(work), std::move(stop))};
}

auto async_open(io_engine const& engine, std::filesystem::path path, read_options options, std::stop_token stop)
    -> operation<mapped_file> {
  return async_call(
      engine, [path = std::move(path), options] { return mapped_file::open(path, options); }, std::move(stop));
}

auto async_open_mutable(io_engine const& engine, std::filesystem::path path, write_options options,
                        std::stop_token stop) -> operation<mutable_mapped_file> {
  return async_call(
      engine, [path = std::move(path), options] { return mutable_mapped_file::open(path, options); }, std::move(stop));
}

auto async_create(io_engine const& engine, std::filesystem::path path, write_options options, std::stop_token stop)
    -> operation<mutable_mapped_file> {
  return async_call(
      engine, [path = std::move(path), options] { return mutable_mapped_file::create(path, options); },
      std::move(stop));
}

auto async_lock(io_engine const& engine, file_lock& lock, lock_mode mode, wait_for limit, std::stop_token stop)
    -> operation<bool> {
  return operation<bool>{std::make_shared<lock_acquisition>(engine, lock, mode, limit, std::move(stop))};
}

auto async_replace(io_engine const& engine, std::filesystem::path path, std::size_t size,
                   std::function<void(std::span<std::byte>)> fill, replace_options options, std::stop_token stop)
    -> operation<void> {
  return async_call(
      engine,
      [path = std::move(path), size, fill = std::move(fill), options] {
        return replace_file(path, size, fill, options);
      },
      std::move(stop));
}

auto async_copy(io_engine const& engine, file const& from, std::filesystem::path to, clone_options options,
                std::stop_token stop) -> operation<clone_method> {
  return call_with_object<clone_method>(
      engine, [&from, to = std::move(to), options] { return from.clone_to(to, options); }, std::move(stop));
}

} // namespace fmmap
