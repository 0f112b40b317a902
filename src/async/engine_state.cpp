// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <cstddef>
#include <exception>
#include <expected>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <stop_token>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

module fmmap.async;

import fmmap.core;
import fmmap.os;
import :engine_state;

namespace fmmap {

namespace {

auto canceled() -> error {
  return error::make(std::make_error_code(std::errc::operation_canceled), "wait for an operation");
}

auto closed() -> error { return error::make(errc::closed, "begin an operation", {}, {}, "its engine is closed"); }

// It runs no handlers of the program's.
template <class Body>
auto start_thread(Body body) noexcept -> result<std::thread> {
  try {
    os::no_handlers const quiet;
    return std::thread{std::move(body)};
  } catch (std::system_error const& why) {
    return std::unexpected(error::make(why.code(), "start a thread"));
  } catch (std::bad_alloc const&) {
    return std::unexpected(error::make({ENOMEM, std::system_category()}, "start a thread"));
  }
}

} // namespace

// --- Requests -------------------------------------------------------------------------------------------------------------

request::request(std::shared_ptr<engine_state> engine, std::stop_token stop, bool needs_object) noexcept
    : engine_{std::move(engine)}, stop_{std::move(stop)}, needs_object_{needs_object} {}

request::~request() = default;

void request::on_stop::operator()() const noexcept { asked->engine_->stop(*asked); }

auto operation_access::start(request& one, completion then) -> bool {
  if (one.engine_) {
    return one.engine_->start(one, then);
  }
  one.fail(closed());
  return false;
}

auto operation_access::drop(request& one) noexcept -> bool { return !one.engine_ || one.engine_->drop(one); }

void request_queue::push(request& one) noexcept {
  one.next_ = nullptr;
  one.previous_ = std::exchange(last_, &one);
  (one.previous_ != nullptr ? one.previous_->next_ : first_) = &one;
  ++size_;
}

void request_queue::remove(request& one) noexcept {
  (one.previous_ != nullptr ? one.previous_->next_ : first_) = one.next_;
  (one.next_ != nullptr ? one.next_->previous_ : last_) = one.previous_;
  --size_;
}

auto request_queue::pop() noexcept -> request& {
  auto& one = *first_;
  remove(one);
  return one;
}

auto request_queue::next_of(request const& one) noexcept -> request* { return one.next_; }

// --- Beginning and end ------------------------------------------------------------------------------------------------------

auto engine_state::make(engine_options const& options) -> result<std::shared_ptr<engine_state>> {
  auto const processors = std::max(std::thread::hardware_concurrency(), 2U);
  auto const threads = options.threads != 0 ? options.threads : 2 * processors;
  if (options.lock_threads == 0) {
    return std::unexpected(
        error::make(errc::invalid_options, "create an engine", {}, {}, "a wait for a lock needs a thread of its own"));
  }
  auto made = std::make_shared<engine_state>(threads, options.lock_threads);
  made->threads_.reserve(std::size_t{threads} + 1);
  auto first = start_thread([made] { made->resume_all(); });
  if (!first) {
    return std::unexpected(std::move(first).error());
  }
  made->threads_.push_back(*std::move(first));
  return made;
}

void engine_state::close() noexcept {
  lock held{mutex_};
  if (is_closing_.exchange(true)) {
    return;
  }
  for (auto* const queue : {&queued_, &queued_to_wait_}) {
    while (!queue->empty()) {
      refuse(queue->pop(), canceled());
    }
  }
  auto const goes_on = [](request const& one) { return !one.is_stopped_; };
  for (auto* one = running_.find(goes_on); one != nullptr; one = running_.find(goes_on)) {
    stop_running(held, *one);
  }
  asked_.notify_all();
  finished_.notify_all();
  auto threads = std::exchange(threads_, {});
  held.unlock();
  auto const is_mine = [](std::thread const& one) { return one.get_id() == std::this_thread::get_id(); };
  if (std::ranges::any_of(threads, is_mine)) {
    std::ranges::for_each(threads, &std::thread::detach);
    return;
  }
  std::ranges::for_each(threads, &std::thread::join);
  held.lock();
  changed_.wait(held, [&] { return waiting_ == 0; });
}

auto engine_state::is_quiet() const noexcept -> bool {
  return queued_.empty() && queued_to_wait_.empty() && running_.empty() && done_.empty();
}

// --- What a request goes through --------------------------------------------------------------------------------------------

auto engine_state::start(request& one, completion then) -> bool {
  if (is_forked()) {
    one.fail(error::make(errc::forked, "begin an operation"));
    return false;
  }
  if (one.stop_.stop_possible()) {
    one.on_stop_.emplace(one.stop_, request::on_stop{&one});
  }
  {
    lock const held{mutex_};
    auto const called = is_closing_       ? std::unexpected(closed())
                        : one.is_stopped_ ? std::unexpected(canceled())
                                          : call_worker();
    if (called) {
      one.then_ = then;
      one.phase_ = request::phase::waiting;
      one.kept_ = one.shared_from_this();
      queued_.push(one);
      asked_.notify_one();
      return true;
    }
    one.phase_ = request::phase::over;
    one.fail(called.error());
  }
  one.on_stop_.reset(); // without the lock, which a stop may be waiting for
  return false;
}

// That there is one for whatever comes next.
auto engine_state::call_worker() noexcept -> result<void> {
  if (idle_ > queued_.size() || threads_.size() > most_workers_) {
    return {};
  }
  auto worker = start_thread([self = shared_from_this()] { self->work(); });
  if (worker) {
    threads_.push_back(*std::move(worker)); // there is room
    return {};
  }
  return threads_.size() > 1 ? result<void>{} : std::unexpected(std::move(worker).error());
}

void engine_state::work() noexcept {
  lock held{mutex_};
  while (true) {
    ++idle_;
    asked_.wait(held, [&] { return !queued_.empty() || is_closing_; });
    --idle_;
    if (queued_.empty()) {
      return;
    }
    auto& one = queued_.pop();
    begin(one);
    held.unlock();
    auto const went = one.perform(false, {});
    held.lock();
    if (went == progress::done) {
      end(held, one);
    } else {
      let_wait(one);
    }
  }
}

void engine_state::begin(request& one) noexcept {
  one.phase_ = request::phase::running;
  running_.push(one);
}

// What has to wait for somebody else.
void engine_state::let_wait(request& one) noexcept {
  running_.remove(one);
  one.has_to_wait_ = true;
  if (one.is_stopped_) {
    refuse(one, canceled());
    return;
  }
  if (waiting_ < most_waiting_) {
    if (auto const done = wait_elsewhere(one); done || waiting_ == 0) {
      if (!done) {
        refuse(one, done.error());
      }
      return;
    }
  }
  one.phase_ = request::phase::waiting;
  queued_to_wait_.push(one);
}

auto engine_state::wait_elsewhere(request& one) noexcept -> result<void> {
  try {
    one.stop_waiting_ = std::stop_source{};
  } catch (std::bad_alloc const&) {
    return std::unexpected(error::make({ENOMEM, std::system_category()}, "wait for a lock"));
  }
  auto thread = start_thread([self = shared_from_this(), &one] { self->wait_for_one(one); });
  if (!thread) {
    return std::unexpected(std::move(thread).error());
  }
  thread->detach();
  ++waiting_;
  begin(one);
  return {};
}

// The next one needs another thread: the lock may be the same, and this one might have it now.
void engine_state::wait_for_one(request& one) noexcept {
  (void)one.perform(true, one.stop_waiting_.get_token());
  lock held{mutex_};
  end(held, one);
  --waiting_;
  while (!queued_to_wait_.empty() && waiting_ < most_waiting_) {
    auto& next = queued_to_wait_.pop();
    if (auto const begun = wait_elsewhere(next); !begun) {
      refuse(next, begun.error());
    }
  }
  changed_.notify_all();
}

void engine_state::end(lock& held, request& one) noexcept {
  running_.remove(one);
  if (!one.is_dropped_) {
    be_done(one);
    return;
  }
  one.phase_ = request::phase::over;
  auto kept = std::move(one.kept_);
  held.unlock();
  kept->drop();
  kept.reset();
  held.lock();
  finished_.notify_all();
}

void engine_state::be_done(request& one) noexcept {
  one.phase_ = request::phase::done;
  done_.push(one);
  finished_.notify_all();
  changed_.notify_all();
}

void engine_state::refuse(request& one, error why) noexcept {
  one.fail(std::move(why));
  be_done(one);
}

void engine_state::resume_all() noexcept {
  lock held{mutex_};
  while (true) {
    finished_.wait(held, [&] { return !done_.empty() || (is_closing_ && is_quiet()); });
    if (done_.empty()) {
      return;
    }
    auto& one = done_.pop();
    one.phase_ = request::phase::over;
    auto kept = std::move(one.kept_);
    auto const then = one.then_;
    held.unlock();
    kept->on_stop_.reset();
    then.call(then.argument);
    kept.reset();
    held.lock();
  }
}

// --- Stopping and dropping --------------------------------------------------------------------------------------------------

void engine_state::stop(request& one) noexcept {
  lock held{mutex_};
  switch (one.phase_) {
  case request::phase::idle:
    one.is_stopped_ = true;
    return;
  case request::phase::waiting:
    queue_of(one).remove(one);
    refuse(one, canceled());
    return;
  case request::phase::running:
    stop_running(held, one);
    return;
  case request::phase::done:
  case request::phase::over:
    return;
  }
}

// It is not over while somebody has its stop source: who stops it by a callback of its own, or an operation that waits.
void engine_state::stop_running(lock& held, request& one) noexcept {
  one.is_stopped_ = true;
  if (one.has_to_wait_) {
    auto source = one.stop_waiting_;
    held.unlock();
    source.request_stop();
    held.lock();
  }
}

auto engine_state::drop(request& one) noexcept -> bool {
  if (is_forked()) {
    return true;
  }
  std::shared_ptr<request> kept;
  {
    lock held{mutex_};
    if (one.phase_ == request::phase::running && !one.needs_object_) {
      one.is_dropped_ = true;
      return true;
    }
    if (one.phase_ == request::phase::running) {
      stop_running(held, one);
      changed_.wait(held, [&] { return one.phase_ != request::phase::running; });
    }
    if (one.phase_ == request::phase::over) {
      return false;
    }
    if (one.phase_ == request::phase::waiting) {
      queue_of(one).remove(one);
    } else if (one.phase_ == request::phase::done) {
      done_.remove(one);
    }
    one.phase_ = request::phase::over;
    kept = std::move(one.kept_);
    finished_.notify_all();
  }
  one.on_stop_.reset();
  one.drop();
  return true;
}

} // namespace fmmap
