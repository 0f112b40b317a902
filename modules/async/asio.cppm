// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <condition_variable>
#include <cstddef>
#include <exception>
#include <expected>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <system_error>
#include <type_traits>
#include <utility>

#include <boost/asio/associated_allocator.hpp>
#include <boost/asio/associated_cancellation_slot.hpp>
#include <boost/asio/associated_executor.hpp>
#include <boost/asio/async_result.hpp>
#include <boost/asio/bind_allocator.hpp>
#include <boost/asio/cancellation_type.hpp>
#include <boost/asio/execution/context.hpp>
#include <boost/asio/execution_context.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/query.hpp>

#include <sys/types.h>
#include <unistd.h>

/// Waiting for fmmap's operations as Boost.Asio waits: by callbacks, futures, coroutines of its own.
export module fmmap.async.asio;

import fmmap.core;
import fmmap.async;

namespace fmmap {

// An operation that a handler waits for.
class asio_wait {
public:
  asio_wait() = default;
  asio_wait(asio_wait const&) = delete;
  auto operator=(asio_wait const&) -> asio_wait& = delete;
  virtual ~asio_wait() = default;
  // Whether nothing will be posted any more.
  virtual auto drop() noexcept -> bool = 0;
  // What came of it, and will not be told, goes.
  virtual void forget() noexcept = 0;
};

// All of those whose handlers belong to one context. When that goes, so do they.
class asio_waits final : public boost::asio::execution_context::service {
public:
  using key_type = asio_waits;
  using list = std::list<std::shared_ptr<asio_wait>>;

  explicit asio_waits(boost::asio::execution_context& context) : service{context} {}

  [[nodiscard]] auto add(std::shared_ptr<asio_wait> one) -> list::iterator {
    std::scoped_lock const lock{mutex_};
    auto const added = pending_.insert(pending_.end(), std::move(one));
    ++to_be_posted_;
    return added;
  }
  void remove(list::iterator one) noexcept {
    std::scoped_lock const lock{mutex_};
    pending_.erase(one);
  }
  // Also what will not be.
  void is_posted() noexcept {
    std::scoped_lock const lock{mutex_};
    --to_be_posted_;
    changed_.notify_all(); // with the lock: the context may go then
  }

private:
  // What a handler owns may be what another's operation uses: all operations go before any handler. And the context may not go
  // under who is posting to it, also when that has been run by now; in a forked child nobody is.
  void shutdown() noexcept override {
    auto const dropped = std::exchange(pending_, {});
    auto const is_forked = ::getpid() != process_;
    for (auto const& one : dropped) {
      if (one->drop() && !is_forked) {
        is_posted();
      }
    }
    if (!is_forked) {
      std::unique_lock lock{mutex_};
      changed_.wait(lock, [&] { return to_be_posted_ == 0; });
    }
    for (auto const& one : dropped) {
      one->forget();
    }
  }

  pid_t const process_ = ::getpid();

  std::mutex mutex_;
  std::condition_variable changed_;
  list pending_;
  std::size_t to_be_posted_ = 0;
};

// Nothing of Boost.Asio is named here by which static members of its templates are instantiated: g++ 16 gives all who import this
// and include Boost.Asio definitions of those that are not weak, and they cannot be linked. So the system's executor is named in
// the implementation, and with g++ a handler's cancellation slot is looked for where the handler is known.
auto asio_waits_of_system() -> asio_waits&;
void asio_post_by_system(std::move_only_function<void()> function);

// Whether it calls where it is told to, and never at once.
template <class Executor>
constexpr bool asio_can_post = boost::asio::can_require_v<Executor const&, boost::asio::execution::blocking_t::never_t>;

// Where those wait whose handlers have an executor that tells of its context, and posts there. Of another one, as
// any_completion_executor, no context is known, and with the system's their operations go when the program does.
template <class Executor>
auto asio_waits_of(Executor const& executor) -> asio_waits& {
  namespace asio = boost::asio;
  if constexpr (asio_can_post<Executor> && asio::can_query_v<Executor const&, asio::execution::context_t>) {
    return asio::use_service<asio_waits>(
        static_cast<asio::execution_context&>(asio::query(executor, asio::execution::context)));
  } else {
    return asio_waits_of_system();
  }
}

// Calls a function there, and never here: an executor that cannot promise that is asked by a thread of the system's executor.
template <class Executor, class Function>
void asio_post(Executor const& executor, Function function) {
  if constexpr (asio_can_post<Executor>) {
    boost::asio::post(executor, std::move(function));
  } else {
    asio_post_by_system([executor, one = std::move(function)]() mutable { executor.execute(std::move(one)); });
  }
}

#ifdef __clang__
template <class Handler>
auto asio_slot_of(Handler const& handler) {
  return boost::asio::get_associated_cancellation_slot(handler);
}
#else
// That of a handler that has none.
template <class>
struct asio_no_slot {
  [[nodiscard]] auto is_connected() const noexcept -> bool { return false; }
  void assign(auto&&) noexcept {}
  void clear() noexcept {}
};
template <class Handler>
auto asio_slot_of(Handler const& handler) {
  using of_asio = std::conditional_t<std::is_void_v<Handler>, Handler, boost::asio::execution_context>;
  static_assert(
      requires { get_associated_cancellation_slot(handler, asio_no_slot<of_asio>{}); },
      "async_wait needs #include <boost/asio/associated_cancellation_slot.hpp> where it is called");
  return get_associated_cancellation_slot(handler, asio_no_slot<of_asio>{});
}
#endif

template <class T, class Handler>
class asio_wait_of final : public asio_wait, public std::enable_shared_from_this<asio_wait_of<T, Handler>> {
public:
  asio_wait_of(Handler handler, operation<T> awaited)
      : handler_{std::move(handler)},
        work_{boost::asio::get_associated_executor(handler_)},
        all_{asio_waits_of(work_.get_executor())},
        operation_{std::move(awaited)} {}

  void begin() {
    auto const self = this->shared_from_this(); // it may be over before `start` returns
    if (auto slot = asio_slot_of(handler_); slot.is_connected()) {
      slot.assign([weak = this->weak_from_this()](boost::asio::cancellation_type) {
        if (auto const one = weak.lock(); one && one->operation_) {
          one->operation_->stop();
        }
      });
    }
    place_ = all_.add(self);
    if (!operation_->start(&asio_wait_of::post, this)) {
      is_over_ = true;
      post(this);
    }
  }

  auto drop() noexcept -> bool override { return !is_over_ && operation_->drop(); }
  void forget() noexcept override { operation_.reset(); }

private:
  // This thread keeps nothing of what it posts, nor the executor: the context waits for `is_posted` alone.
  static void post(void* argument) noexcept {
    auto self = static_cast<asio_wait_of*>(argument)->shared_from_this();
    auto& all = self->all_;
    {
      auto const executor = self->work_.get_executor();
      auto const allocator = boost::asio::get_associated_allocator(self->handler_);
      asio_post(executor, boost::asio::bind_allocator(allocator,
                                                      [one = std::move(self)]() mutable { complete(std::move(one)); }));
    }
    all.is_posted();
  }

  // The handler has nothing of this left when it is called: it may begin the next one in the same memory.
  static void complete(std::shared_ptr<asio_wait_of> self) {
    self->all_.remove(self->place_);
    asio_slot_of(self->handler_).clear();
    auto [thrown, outcome] = self->outcome();
    auto const work = std::move(self->work_);
    auto handler = std::move(self->handler_);
    self.reset();
    std::move(handler)(std::move(thrown), std::move(outcome));
  }

  [[nodiscard]] auto outcome() noexcept -> std::pair<std::exception_ptr, result<T>> {
    try {
      return {nullptr, operation_->await_resume()};
    } catch (...) {
      auto const none = std::make_error_code(std::errc::operation_canceled);
      return {std::current_exception(), std::unexpected(error::make(none, "wait for an operation"))};
    }
  }

  Handler handler_;
  boost::asio::executor_work_guard<boost::asio::associated_executor_t<Handler>> work_;
  asio_waits& all_;
  asio_waits::list::iterator place_;
  bool is_over_ = false;                  // before it began
  std::optional<operation<T>> operation_; // goes before the handler, which may own what it uses
};

} // namespace fmmap

export namespace fmmap {

/// Begins an operation, and completes as `void(std::exception_ptr, result<T>)` does in Boost.Asio: `co_await` with
/// `use_awaitable` and the future of `use_future` give the `result<T>`, or throw what a function of the program's has thrown.
///
/// The handler is called where its associated executor calls it, by a post: never before this returns, and never on a thread of
/// the engine's. The executor has work until then. A signal of its associated cancellation slot, of any type, is a stop.
///
/// When the execution context is destroyed before, the operation is dropped, and the handler is destroyed uncalled. That waits
/// for operations that use an object of the program's, as dropping does. The context of an executor that does not tell of it, as that of
/// an `any_completion_handler`, is best one that is never destroyed: a thread of Boost.Asio's system executor lets go of that
/// executor some time after the handler has been called.
///
/// Thread safety: as asynchronous functions of Boost.Asio. Out of memory, where a handler cannot be posted, the program ends.
template <class T, boost::asio::completion_token_for<void(std::exception_ptr, result<T>)> Token>
auto async_wait(operation<T> awaited, Token&& token) {
  return boost::asio::async_initiate<Token, void(std::exception_ptr, result<T>)>(
      []<class Handler>(Handler handler, operation<T> one) {
        std::make_shared<asio_wait_of<T, Handler>>(std::move(handler), std::move(one))->begin();
      },
      token, std::move(awaited));
}

} // namespace fmmap
