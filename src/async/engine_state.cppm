// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <expected>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

// What an io_engine is. Implementation units only.
module fmmap.async:engine_state;

import fmmap.core;
import fmmap.os;
import :io_engine;
import :operation;
import :ring;

namespace fmmap {

// Requests in the order of their arrival, from which any may be taken out.
class request_queue {
public:
  [[nodiscard]] auto empty() const noexcept -> bool { return first_ == nullptr; }
  [[nodiscard]] auto size() const noexcept -> std::size_t { return size_; }
  [[nodiscard]] auto first() const noexcept -> request& { return *first_; }
  void push(request& one) noexcept;
  void remove(request& one) noexcept;
  [[nodiscard]] auto pop() noexcept -> request&;

  // The first of which that is so; null when there is none.
  template <class Predicate>
  [[nodiscard]] auto find(Predicate is_so) const -> request* {
    auto* one = first_;
    while (one != nullptr && !is_so(*one)) {
      one = next_of(*one);
    }
    return one;
  }

private:
  [[nodiscard]] static auto next_of(request const& one) noexcept -> request*;

  request* first_ = nullptr;
  request* last_ = nullptr;
  std::size_t size_ = 0;
};

// Requests in the order of when they are over.
class request_timetable {
public:
  [[nodiscard]] auto empty() const noexcept -> bool { return all_.empty(); }
  [[nodiscard]] auto first() const noexcept -> request& { return **all_.begin(); }
  void push(request& one) { all_.insert(&one); }
  void remove(request& one) noexcept { all_.erase(&one); }

private:
  struct is_earlier {
    [[nodiscard]] auto operator()(request const* a, request const* b) const noexcept -> bool;
  };
  std::set<request*, is_earlier> all_;
};

class engine_state : public std::enable_shared_from_this<engine_state> {
public:
  [[nodiscard]] static auto make(engine_options const& options) -> result<std::shared_ptr<engine_state>>;

  [[nodiscard]] auto kind() const noexcept -> engine_kind {
    return ring_ ? engine_kind::io_uring : engine_kind::threads;
  }
  // Why it has no ring, where it was to have one if it could.
  [[nodiscard]] auto ring_error() const noexcept -> std::optional<error> const& { return ring_error_; }

  [[nodiscard]] auto start(request& one, completion then) -> bool;
  [[nodiscard]] auto drop(request& one) noexcept -> bool;
  void stop(request& one) noexcept;

  // Ends it, and waits for that but on one of its own threads. False where it was being ended already.
  auto close() noexcept -> bool;
  [[nodiscard]] auto is_closed() const noexcept -> bool { return is_closing_.load(std::memory_order_relaxed); }
  [[nodiscard]] auto is_forked() const noexcept -> bool { return os::process_id() != process_; }

  // Without a ring, `why` is the reason where it was to have one if it could.
  engine_state(unsigned threads, unsigned lock_threads, std::unique_ptr<ring> kernel, std::optional<error> why)
      : most_workers_{threads}, most_waiting_{lock_threads}, ring_{std::move(kernel)}, ring_error_{std::move(why)} {}

private:
  using lock = std::unique_lock<std::mutex>;
  using duty = void (engine_state::*)() noexcept;

  // With the lock: a thread that does that, and then is counted no more.
  template <class Body>
  [[nodiscard]] auto begin_thread(Body body) noexcept -> result<std::thread>;

  // Threads, until the engine is closed.
  void work() noexcept;
  void resume_all() noexcept;
  void wait_for_one(request& one) noexcept; // ends with that
  void ask_ring() noexcept;                 // for the calls of what is queued for it
  void reap() noexcept;                     // what the ring has done

  // Asks the ring for the calls of a request, until that has one: then the request is not to be touched. False when it has none.
  [[nodiscard]] auto give_to_ring(request& one) noexcept -> bool;
  // That it goes on where the ring has no call of it.
  void go_on_without_ring(request& one) noexcept;
  // What is left of it, and those that it has absorbed.
  [[nodiscard]] static auto perform_all(request& one) noexcept -> progress;

  // With the lock.
  [[nodiscard]] auto call_workers(std::size_t ready) noexcept -> result<void>;
  [[nodiscard]] auto count_ready() const noexcept -> std::size_t { return queued_.size() + wanting_; } // for workers
  [[nodiscard]] auto next_to_go_on() const noexcept -> request*;
  [[nodiscard]] auto next_deadline() const noexcept -> std::chrono::steady_clock::time_point;
  [[nodiscard]] auto queue_of(request const& one) noexcept
      -> request_queue&; // where it waits for its turn, as the first
  // Whether one more has to wait for a worker.
  [[nodiscard]] auto is_busy() const noexcept -> bool { return workers_ == most_workers_ && idle_ <= count_ready(); }
  [[nodiscard]] auto is_for_ring(request const& one) const noexcept -> bool {
    return ring_ != nullptr && one.target() != nullptr;
  }
  [[nodiscard]] auto queue_up(request& one) noexcept -> result<void>;
  void refuse_what_waits(lock& held) noexcept; // and stops what runs; may release the lock for moments
  void take_turn(request& one) noexcept;       // where it waits as the first
  void leave_queue(request& one) noexcept;
  void let_next_go(void const* target) noexcept; // of those behind the one that has had its turn
  void begin(request& one) noexcept;
  void absorb_into(request& one) noexcept;
  void let_wait(request& one) noexcept; // in a thread of its own
  [[nodiscard]] auto let_sleep(request& one, std::chrono::nanoseconds after) noexcept -> result<void>;
  void wake_sleepers() noexcept;
  [[nodiscard]] auto wait_elsewhere(request& one) noexcept -> result<void>;
  void end(lock& held, request& one) noexcept; // may release it for a moment
  void let_threads_end() noexcept;             // when nothing can come any more
  void be_done(request& one) noexcept;
  void refuse(request& one, error why) noexcept;
  void stop_running(lock& held, request& one) noexcept; // likewise
  [[nodiscard]] auto is_quiet() const noexcept -> bool;

  int const process_ = os::process_id();
  unsigned const most_workers_;
  unsigned const most_waiting_; // threads
  std::unique_ptr<ring> const ring_;
  std::optional<error> const ring_error_;

  std::mutex mutex_;                       // of all that follows
  std::condition_variable asked_;          // of workers
  std::condition_variable asked_for_ring_; // of the one thread that asks it
  std::condition_variable finished_;
  std::condition_variable changed_; // for who drops a request, or closes
  request_queue queued_;
  request_queue queued_for_ring_;                         // flushes
  std::unordered_map<void const*, request_queue> behind_; // others with the same target, of each that is queued or runs
  request_queue queued_to_wait_;
  request_timetable sleeping_;
  request_queue running_;
  request_queue done_;
  std::size_t workers_ = 0;
  std::size_t idle_ = 0;                // of them
  std::size_t wanting_ = 0;             // requests that want a thread for the rest
  unsigned waiting_ = 0;                // threads of their own
  std::size_t living_ = 0;              // threads, all of them
  unsigned in_ring_ = 0;                // flushes that run, wherever: so many are asked for at most
  std::atomic<bool> is_closing_{false}; // written with the lock
  std::vector<std::thread> threads_;    // one that resumes, two for the ring where there is one, and workers
};

} // namespace fmmap
