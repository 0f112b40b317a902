// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
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

auto no_memory() -> error { return error::make({ENOMEM, std::system_category()}, "begin an operation"); }

// Requests that are looked at for one that may be absorbed: there may be many.
constexpr std::size_t most_looked_at = 1024;

constexpr unsigned most_threads = 65'536;

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

// Of this thread, where it is one of an engine's.
thread_local engine_state const* engine_of_thread = nullptr;

} // namespace

// --- Requests -------------------------------------------------------------------------------------------------------------

request::request(std::shared_ptr<engine_state> engine, std::stop_token stop, bool needs_object) noexcept
    : engine_{std::move(engine)}, stop_{std::move(stop)}, needs_object_{needs_object} {}

request::request(std::shared_ptr<engine_state> engine, std::stop_token stop, std::chrono::nanoseconds after) noexcept
    : engine_{std::move(engine)}, stop_{std::move(stop)}, needs_object_{false}, after_{after} {}

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

void operation_access::stop(request& one) noexcept {
  if (one.engine_) {
    one.engine_->stop(one);
  }
}

auto operation_access::is_forked(request const& one) noexcept -> bool {
  return one.engine_ && one.engine_->is_forked();
}

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

auto request_timetable::is_earlier::operator()(request const* a, request const* b) const noexcept -> bool {
  return std::pair{a->until_, a} < std::pair{b->until_, b};
}

// --- Beginning and end ------------------------------------------------------------------------------------------------------

auto engine_state::make(engine_options const& options) -> result<std::shared_ptr<engine_state>> {
  auto const processors = std::max(std::thread::hardware_concurrency(), 2U);
  auto const threads = options.threads != 0 ? options.threads : 2 * processors;
  if (options.lock_threads == 0) {
    return std::unexpected(
        error::make(errc::invalid_options, "create an engine", {}, {}, "a wait for a lock needs a thread of its own"));
  }
  if (options.threads > most_threads) {
    return std::unexpected(
        error::make(errc::invalid_options, "create an engine", {}, {}, "it can have 65 536 threads at most"));
  }
  std::unique_ptr<ring> kernel;
  std::optional<error> why;
  if (options.kind != engine_kind::threads) {
    auto set_up = ring::make();
    if (set_up) {
      kernel = *std::move(set_up);
    } else if (options.kind == engine_kind::io_uring) {
      return std::unexpected(std::move(set_up).error());
    } else {
      why = std::move(set_up).error();
    }
  }
  auto made = std::make_shared<engine_state>(threads, options.lock_threads, std::move(kernel), std::move(why));
  made->threads_.reserve(std::size_t{threads} + 3);
  auto duties = std::vector<duty>{&engine_state::resume_all};
  if (made->ring_) {
    duties.insert(duties.end(), {&engine_state::ask_ring, &engine_state::reap});
  }
  for (auto const one : duties) {
    lock held{made->mutex_};
    auto thread = made->begin_thread([one](engine_state& engine) { (engine.*one)(); });
    if (!thread) {
      held.unlock();
      (void)made->close();
      return std::unexpected(std::move(thread).error());
    }
    made->threads_.push_back(*std::move(thread));
  }
  return made;
}

template <class Body>
auto engine_state::begin_thread(Body body) noexcept -> result<std::thread> {
  auto thread = start_thread([self = shared_from_this(), body] {
    engine_of_thread = self.get();
    body(*self);
    lock const held{self->mutex_};
    --self->living_;
    self->changed_.notify_all();
  });
  living_ += thread ? 1 : 0;
  return thread;
}

auto engine_state::close() noexcept -> bool {
  lock held{mutex_};
  auto const is_first = !is_closing_.exchange(true);
  if (is_first) {
    refuse_what_waits(held);
  }
  auto threads = std::exchange(threads_, {});
  held.unlock();
  if (engine_of_thread == this) {
    std::ranges::for_each(threads, &std::thread::detach);
    return is_first;
  }
  std::ranges::for_each(threads, &std::thread::join);
  held.lock();
  changed_.wait(held, [&] { return living_ == 0; });
  return is_first;
}

void engine_state::refuse_what_waits(lock& held) noexcept {
  auto const refuse_all = [&](auto const& queue) {
    while (!queue.empty()) { // those behind one come to be the first
      auto& one = queue.first();
      leave_queue(one);
      refuse(one, canceled());
    }
  };
  refuse_all(queued_);
  refuse_all(queued_for_ring_);
  refuse_all(queued_to_wait_);
  refuse_all(sleeping_);
  for (auto& [target, others] : behind_) {
    while (!others.empty()) {
      refuse(others.pop(), canceled());
    }
  }
  auto const goes_on = [](request const& one) { return !one.is_stopped_; };
  for (auto* one = running_.find(goes_on); one != nullptr; one = running_.find(goes_on)) {
    stop_running(held, *one);
  }
  let_threads_end();
}

auto engine_state::is_quiet() const noexcept -> bool {
  return queued_.empty() && queued_for_ring_.empty() && queued_to_wait_.empty() && sleeping_.empty() &&
         running_.empty() && done_.empty();
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
    auto taken = is_closing_                      ? std::unexpected(closed())
                 : one.is_stopped_                ? std::unexpected(canceled())
                 : one.after_ || is_for_ring(one) ? result<void>{}
                                                  : call_workers(count_ready() + 1);
    auto const waits_apart = taken && one.begin_limit() && is_busy();
    if (taken && !waits_apart) {
      taken = one.after_ ? let_sleep(one, *one.after_) : queue_up(one);
    }
    if (taken) {
      one.then_ = then;
      one.phase_ = request::phase::waiting;
      one.kept_ = one.shared_from_this();
      if (waits_apart) {
        let_wait(one);
      }
      return true;
    }
    one.phase_ = request::phase::over;
    one.fail(std::move(taken).error());
  }
  one.on_stop_.reset(); // without the lock, which a stop may be waiting for
  return false;
}

// That there are workers for so many requests, or as many as there may be; one at least, also while it is closed.
auto engine_state::call_workers(std::size_t ready) noexcept -> result<void> {
  if (workers_ != 0 && (idle_ >= ready || workers_ == most_workers_ || is_closing_)) {
    return {};
  }
  auto worker = is_closing_ ? std::unexpected(closed()) : begin_thread([](engine_state& engine) { engine.work(); });
  if (worker) {
    threads_.push_back(*std::move(worker)); // there is room
    ++workers_;
    ++idle_;
    return {};
  }
  return workers_ != 0 ? result<void>{} : std::unexpected(std::move(worker).error());
}

void engine_state::work() noexcept {
  lock held{mutex_};
  while (true) {
    request* next = nullptr;
    asked_.wait(held, [&] {
      next = next_to_go_on();
      return next != nullptr || (is_closing_ && running_.empty()); // as ask_ring
    });
    --idle_;
    if (next == nullptr) {
      return;
    }
    auto& one = *next;
    auto const is_new = !std::exchange(one.wants_thread_, false);
    if (is_new) {
      queued_.remove(one); // and those behind it stay there
      begin(one);
      absorb_into(one);
    } else {
      --wanting_;
    }
    held.unlock();
    auto const is_given = is_new && give_to_ring(one); // one without a target
    auto const went = is_given ? progress::done : perform_all(one);
    held.lock();
    if (went == progress::has_to_wait) {
      running_.remove(one);
      let_wait(one);
    } else if (!is_given) {
      end(held, one);
    }
    ++idle_;
  }
}

// What has begun goes first.
auto engine_state::next_to_go_on() const noexcept -> request* {
  if (wanting_ != 0) {
    return running_.find([](request const& one) { return one.wants_thread_; });
  }
  return queued_.empty() ? nullptr : &queued_.first();
}

auto engine_state::queue_of(request const& one) noexcept -> request_queue& {
  return one.has_to_wait_ ? queued_to_wait_ : is_for_ring(one) ? queued_for_ring_ : queued_;
}

// Of what has the same target one at a time: a second sync of a file would wait for the first one in any case, and meanwhile
// absorbs others.
auto engine_state::queue_up(request& one) noexcept -> result<void> {
  if (auto const* const target = one.target()) {
    try {
      auto const [place, is_first] = behind_.try_emplace(target);
      one.is_behind_ = !is_first;
      if (one.is_behind_) {
        place->second.push(one);
        return {};
      }
    } catch (std::bad_alloc const&) {
      return std::unexpected(no_memory());
    }
  }
  take_turn(one);
  return {};
}

void engine_state::take_turn(request& one) noexcept {
  queue_of(one).push(one);
  (is_for_ring(one) ? asked_for_ring_ : asked_).notify_one();
}

void engine_state::leave_queue(request& one) noexcept {
  if (one.is_behind_) {
    behind_.find(one.target())->second.remove(one);
    return;
  }
  if (one.after_) {
    sleeping_.remove(one);
    return;
  }
  queue_of(one).remove(one);
  let_next_go(one.target());
}

void engine_state::let_next_go(void const* target) noexcept {
  if (target == nullptr) {
    return;
  }
  auto const place = behind_.find(target);
  if (place->second.empty()) {
    behind_.erase(place);
    return;
  }
  auto& next = place->second.pop();
  next.is_behind_ = false;
  take_turn(next);
  if (!is_for_ring(next)) {
    (void)call_workers(count_ready()); // there is one
  }
}

void engine_state::absorb_into(request& one) noexcept {
  if (one.target() == nullptr) {
    return;
  }
  auto& others = behind_.find(one.target())->second;
  auto** last = &one.absorbed_;
  auto* next = others.empty() ? nullptr : &others.first();
  for (std::size_t i = 0; next != nullptr && i < most_looked_at; ++i) {
    auto& other = *std::exchange(next, next->next_);
    if (one.absorb(other)) {
      others.remove(other);
      other.phase_ = request::phase::running;
      other.next_ = nullptr;
      *last = &other;
      last = &other.next_;
    }
  }
}

auto engine_state::perform_all(request& one) noexcept -> progress {
  auto const went = one.perform(false, {});
  for (auto* other = one.absorbed_; other != nullptr; other = other->next_) {
    other->share(one);
  }
  return went;
}

auto engine_state::give_to_ring(request& one) noexcept -> bool {
  if (!ring_) {
    return false;
  }
  while (auto const call = one.next_call()) {
    auto const asked = ring_->ask(*call, &one);
    if (asked.is_made) {
      return true;
    }
    if (!asked.code) {
      return false;
    }
    one.call_made(*asked.code);
  }
  return false;
}

// Until the engine is closed and all is over: the kernel gives up what was asked for by threads that have ended.
void engine_state::ask_ring() noexcept {
  lock held{mutex_};
  while (true) {
    asked_for_ring_.wait(held, [&] {
      return (!queued_for_ring_.empty() && in_ring_ < ring::capacity) || (is_closing_ && running_.empty());
    });
    if (queued_for_ring_.empty()) {
      return;
    }
    auto& one = queued_for_ring_.pop(); // and those behind it stay there
    begin(one);
    absorb_into(one);
    held.unlock();
    if (!give_to_ring(one)) {
      go_on_without_ring(one);
    }
    held.lock();
  }
}

void engine_state::reap() noexcept {
  while (auto const over = ring_->wait()) {
    auto& one = *static_cast<request*>(over->tag);
    if (over->code) {
      one.call_made(*over->code);
    }
    if (!over->code || !give_to_ring(one)) {
      go_on_without_ring(one);
    }
  }
}

// On a worker, unless there is nothing left to do, or can be none.
void engine_state::go_on_without_ring(request& one) noexcept {
  lock held{mutex_, std::defer_lock};
  if (!one.is_over()) {
    held.lock();
    if (call_workers(count_ready() + 1)) {
      one.wants_thread_ = true;
      ++wanting_;
      asked_.notify_one();
      return;
    }
    held.unlock();
  }
  (void)perform_all(one);
  held.lock();
  end(held, one);
}

void engine_state::begin(request& one) noexcept {
  one.phase_ = request::phase::running;
  running_.push(one);
  in_ring_ += one.target() != nullptr ? 1 : 0;
}

// What has to wait for somebody else.
void engine_state::let_wait(request& one) noexcept {
  one.has_to_wait_ = true;
  if (one.is_stopped_ || is_closing_) {
    refuse(one, canceled());
    let_threads_end();
    return;
  }
  if (waiting_ < most_waiting_) {
    if (auto const done = wait_elsewhere(one); done || waiting_ == 0) {
      if (!done) {
        refuse(one, done.error());
        let_threads_end();
      }
      return;
    }
  }
  one.phase_ = request::phase::waiting;
  one.until_ = one.deadline();
  queued_to_wait_.push(one);
  finished_.notify_all(); // for who looks at the time
}

auto engine_state::wait_elsewhere(request& one) noexcept -> result<void> {
  try {
    one.stop_waiting_ = std::stop_source{};
  } catch (std::bad_alloc const&) {
    return std::unexpected(error::make({ENOMEM, std::system_category()}, "wait for a lock"));
  }
  auto thread = begin_thread([&one](engine_state& engine) { engine.wait_for_one(one); });
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
}

// Those that nobody waits for last: the lock is released for them, and then the engine may be closed.
void engine_state::end(lock& held, request& one) noexcept {
  running_.remove(one);
  if (one.target() != nullptr) {
    --in_ring_;
    asked_for_ring_.notify_one();
  }
  let_next_go(one.target());
  one.next_ = std::exchange(one.absorbed_, nullptr);
  request* dropped = nullptr;
  for (auto* next = &one; next != nullptr;) {
    auto& each = *std::exchange(next, next->next_);
    if (each.is_dropped_) {
      each.phase_ = request::phase::over;
      each.next_ = std::exchange(dropped, &each);
    } else {
      be_done(each);
    }
  }
  let_threads_end();
  while (dropped != nullptr) {
    auto kept = std::move(dropped->kept_);
    dropped = dropped->next_;
    held.unlock();
    kept->drop();
    kept.reset();
    held.lock();
  }
}

void engine_state::let_threads_end() noexcept {
  if (is_closing_ && running_.empty()) {
    finished_.notify_all();
    asked_.notify_all();
    asked_for_ring_.notify_all();
    if (ring_) {
      ring_->close();
    }
  }
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
    wake_sleepers();
    if (done_.empty()) {
      if (is_closing_ && is_quiet()) {
        return;
      }
      if (auto const until = next_deadline(); until == std::chrono::steady_clock::time_point::max()) {
        finished_.wait(held);
      } else {
        finished_.wait_until(held, until);
      }
      continue;
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

auto engine_state::let_sleep(request& one, std::chrono::nanoseconds after) noexcept -> result<void> {
  using clock = std::chrono::steady_clock;
  auto const now = clock::now();
  one.until_ = after < clock::time_point::max() - now ? now + after : clock::time_point::max();
  try {
    sleeping_.push(one);
  } catch (std::bad_alloc const&) {
    return std::unexpected(no_memory());
  }
  if (&sleeping_.first() == &one) {
    finished_.notify_all();
  }
  return {};
}

void engine_state::wake_sleepers() noexcept {
  while (!sleeping_.empty() && sleeping_.first().until_ <= std::chrono::steady_clock::now()) {
    auto& one = sleeping_.first();
    sleeping_.remove(one);
    (void)one.perform(false, {});
    be_done(one);
  }
  auto const is_late = [](request const& one) { return one.until_ <= std::chrono::steady_clock::now(); };
  while (auto* const late = queued_to_wait_.find(is_late)) {
    queued_to_wait_.remove(*late);
    late->expire();
    be_done(*late);
  }
}

auto engine_state::next_deadline() const noexcept -> std::chrono::steady_clock::time_point {
  auto next = std::chrono::steady_clock::time_point::max();
  if (!sleeping_.empty()) {
    next = sleeping_.first().until_;
  }
  (void)queued_to_wait_.find([&](request const& one) {
    next = std::min(next, one.until_);
    return false;
  });
  return next;
}

// --- Stopping and dropping --------------------------------------------------------------------------------------------------

void engine_state::stop(request& one) noexcept {
  if (is_forked()) {
    return;
  }
  lock held{mutex_};
  switch (one.phase_) {
  case request::phase::idle:
    one.is_stopped_ = true;
    return;
  case request::phase::waiting:
    leave_queue(one);
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
    return one.phase_ != request::phase::over;
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
      leave_queue(one);
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
