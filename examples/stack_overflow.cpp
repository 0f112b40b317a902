// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Says which of many stacks has overflowed, and ends as the program would have ended: stack_overflow [ROUNDS]
//
// A child runs workers on stacks of a pool, one of them a recursion that is too deep. The handler of SIGSEGV runs on a stack
// of the pool too, asks the pool whose guard the address lies in, and writes what it finds.

#include <array>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <expected>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <sys/resource.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

import fmmap;

namespace {

fmmap::stack_pool const* pool_of_handler = nullptr;

// Without snprintf, which a signal handler must not call.
void say(std::string_view text) { (void)!::write(STDERR_FILENO, text.data(), text.size()); }

void say(std::size_t number) {
  std::array<char, 20> digits{};
  auto at = digits.size();
  do {
    digits[--at] = static_cast<char>('0' + (number % 10));
    number /= 10;
  } while (number > 0);
  say(std::string_view{digits.data() + at, digits.size() - at});
}

void report_overflow(int signal, siginfo_t* info, void* /*context*/) {
  auto const slot = pool_of_handler->slot_of(info->si_addr);
  if (slot) {
    auto const bytes = pool_of_handler->bytes_of(*slot);
    auto const* const at = static_cast<std::byte const*>(info->si_addr);
    say("the stack in slot ");
    say(*slot);
    say(at < bytes.data() ? " has overflowed its " : " was left at the top of its ");
    say(bytes.size());
    say(" bytes\n");
  }
  ::signal(signal, SIG_DFL); // the access is made again, and ends the program as it should
}

void install_handler(fmmap::stack_pool const& pool, fmmap::stack const& on) {
  pool_of_handler = &pool;
  stack_t const alternate{.ss_sp = on.bottom(), .ss_flags = 0, .ss_size = on.size()};
  ::sigaltstack(&alternate, nullptr);
  struct sigaction action{};
  action.sa_sigaction = report_overflow;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  ::sigaction(SIGSEGV, &action, nullptr);
}

// Factors that do not end: each call keeps what it has multiplied.
auto product(std::uint64_t from, std::uint64_t step) -> std::uint64_t { // NOLINT(misc-no-recursion)
  std::array<std::uint64_t volatile, 8> kept{};
  kept[from % kept.size()] = from;
  return step == 0 ? kept[from % kept.size()] * product(from + 1, step) : from;
}

std::uint64_t step_of_worker = 1;
void work() { step_of_worker += product(1, step_of_worker); }

void run_on(fmmap::stack const& one) {
  ucontext_t here{};
  ucontext_t there{};
  ::getcontext(&there);
  there.uc_stack.ss_sp = one.bottom();
  there.uc_stack.ss_size = one.size();
  there.uc_link = &here;
  ::makecontext(&there, work, 0);
  ::swapcontext(&here, &there);
}

void run_workers(int rounds) {
  auto pool = fmmap::or_throw(fmmap::stack_pool::create({.stack_size = std::size_t{64} << 10, .capacity = 1000}));
  auto const for_handler = fmmap::or_throw(pool.allocate());
  install_handler(pool, for_handler);
  std::vector<fmmap::stack> stacks;
  for (int i = 0; i < rounds; ++i) {
    stacks.push_back(fmmap::or_throw(pool.allocate()));
    run_on(stacks.back());
  }
  step_of_worker = 0; // from now on it does not end
  run_on(stacks[static_cast<std::size_t>(rounds) / 2]);
}

} // namespace

auto main(int argc, char** argv) -> int {
  try {
    auto const rounds = argc > 1 ? std::stoi(argv[1]) : 100;
    auto const child = ::fork();
    if (child == 0) {
      rlimit const no_core{.rlim_cur = 0, .rlim_max = 0};
      ::setrlimit(RLIMIT_CORE, &no_core);
      run_workers(rounds);
      ::_exit(0);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    auto const by_signal = WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV;
    std::printf("the child %s\n", by_signal ? "ended by SIGSEGV, and said why" : "ended otherwise");
    return by_signal ? 0 : 1;
  } catch (std::exception const& why) {
    std::fprintf(stderr, "stack_overflow: %s\n", why.what());
    return 1;
  }
}
