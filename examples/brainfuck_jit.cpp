// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Compiles a Brainfuck program while it runs, in a vector of code, and beats an interpreter: brainfuck_jit [FILE]
//
// The code grows as any vector does, in ordinary memory. One flush publishes it in memory that was never writable where it
// is executable. The tape has 65 536 cells, and the positions of the head wrap: no program reaches anything else.

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <expected>
#include <initializer_list>
#include <memory>
#include <memory_resource>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

import fmmap;

namespace {

// The squares up to 10 000, by Daniel B. Cristofani.
constexpr std::string_view squares = "++++[>+++++<-]>[<+++++>-]+<+[>[>+>+<<-]++>>[<<+>>-]>>>[-]++>[-]+>>>+[[-]++++++>>>"
                                     "]<<<[[<++++++++<++>>-]+<.<[>----<-]<]"
                                     "<<[>>>>>[>>>[-]+++++++++<[>-<-]+++++++++>[-[<->-]+[<<<]]<[>+<-]>]<<-]<<-]";

std::string printed;

void put(int byte) { printed.push_back(static_cast<char>(byte)); }

auto get() -> int {
  auto const byte = std::getchar();
  return byte == EOF ? 0 : byte;
}

// What can be done `count` times is one step.
struct step {
  char what;
  std::uint16_t count;
  std::size_t other = 0; // of a bracket: where the one that belongs to it is
};

auto parse(std::string_view program) -> std::vector<step> {
  std::vector<step> steps;
  std::vector<std::size_t> open;
  for (std::size_t i = 0; i < program.size(); ++i) {
    auto const what = program[i];
    if (std::string_view{"+-<>"}.contains(what) && !steps.empty() && steps.back().what == what &&
        steps.back().count < UINT16_MAX) {
      ++steps.back().count;
    } else if (std::string_view{"+-<>.,[]"}.contains(what)) {
      steps.push_back({.what = what, .count = 1});
    }
    if (what == '[') {
      open.push_back(steps.size() - 1);
    } else if (what == ']') {
      if (open.empty()) {
        throw std::invalid_argument("the ] at character " + std::to_string(i) + " has no [");
      }
      steps.back().other = open.back();
      steps[open.back()].other = steps.size() - 1;
      open.pop_back();
    }
  }
  if (!open.empty()) {
    throw std::invalid_argument(std::to_string(open.size()) + " of the [ have no ]");
  }
  return steps;
}

void interpret(std::vector<step> const& steps) {
  std::vector<std::uint8_t> tape(65'536);
  std::uint16_t head = 0;
  for (std::size_t i = 0; i < steps.size(); ++i) {
    auto const& [what, count, other] = steps[i];
    switch (what) {
    case '+':
      tape[head] = static_cast<std::uint8_t>(tape[head] + count);
      break;
    case '-':
      tape[head] = static_cast<std::uint8_t>(tape[head] - count);
      break;
    case '>':
      head = static_cast<std::uint16_t>(head + count);
      break;
    case '<':
      head = static_cast<std::uint16_t>(head - count);
      break;
    case '.':
      put(tape[head]);
      break;
    case ',':
      tape[head] = static_cast<std::uint8_t>(get());
      break;
    case '[':
      i = tape[head] == 0 ? other : i;
      break;
    default:
      i = tape[head] != 0 ? other : i;
    }
  }
}

using compiled = void(std::uint8_t* tape, void (*put)(int), int (*get)());

class compiler {
public:
  explicit compiler(std::pmr::vector<std::byte>& to) : code_{to} {}

  // rbx is the tape, bp the head, whose upper bits stay 0; r12 and r13 are the functions.
  void compile(std::vector<step> const& steps) {
    emit({0x53, 0x55, 0x41, 0x54, 0x41, 0x55}); // push rbx; push rbp; push r12; push r13
    emit({0x48, 0x83, 0xec, 0x08});             // sub rsp, 8: calls want it aligned
    emit({0x48, 0x89, 0xfb, 0x31, 0xed});       // mov rbx, rdi; xor ebp, ebp
    emit({0x49, 0x89, 0xf4, 0x49, 0x89, 0xd5}); // mov r12, rsi; mov r13, rdx
    for (auto const& [what, count, other] : steps) {
      compile_step(what, count);
    }
    emit({0x48, 0x83, 0xc4, 0x08});                   // add rsp, 8
    emit({0x41, 0x5d, 0x41, 0x5c, 0x5d, 0x5b, 0xc3}); // pop r13; pop r12; pop rbp; pop rbx; ret
  }

private:
  void compile_step(char what, std::uint16_t count) {
    switch (what) {
    case '+':
      emit({0x80, 0x04, 0x2b, static_cast<std::uint8_t>(count)}); // add byte [rbx + rbp], count
      break;
    case '-':
      emit({0x80, 0x2c, 0x2b, static_cast<std::uint8_t>(count)}); // sub byte [rbx + rbp], count
      break;
    case '>':
      emit({0x66, 0x81, 0xc5}); // add bp, count
      append(count);
      break;
    case '<':
      emit({0x66, 0x81, 0xed}); // sub bp, count
      append(count);
      break;
    case '.':
      emit({0x0f, 0xb6, 0x3c, 0x2b, 0x41, 0xff, 0xd4}); // movzx edi, byte [rbx + rbp]; call r12
      break;
    case ',':
      emit({0x41, 0xff, 0xd5, 0x88, 0x04, 0x2b}); // call r13; mov [rbx + rbp], al
      break;
    case '[':
      emit({0x80, 0x3c, 0x2b, 0x00, 0x0f, 0x84}); // cmp byte [rbx + rbp], 0; je behind the ]
      append(std::int32_t{0});
      behind_open_.push_back(code_.size());
      break;
    default: {
      emit({0x80, 0x3c, 0x2b, 0x00, 0x0f, 0x85}); // cmp byte [rbx + rbp], 0; jne behind the [
      append(std::int32_t{0});
      auto const distance = static_cast<std::int32_t>(code_.size() - behind_open_.back());
      auto const back = -distance;
      std::memcpy(&code_[code_.size() - sizeof back], &back, sizeof back);
      std::memcpy(&code_[behind_open_.back() - sizeof distance], &distance, sizeof distance);
      behind_open_.pop_back();
    }
    }
  }

  void emit(std::initializer_list<std::uint8_t> bytes) {
    for (auto const byte : bytes) {
      code_.push_back(std::byte{byte});
    }
  }

  template <class Number>
  void append(Number number) {
    auto const at = code_.size();
    code_.resize(at + sizeof number);
    std::memcpy(&code_[at], &number, sizeof number);
  }

  std::pmr::vector<std::byte>& code_;
  std::vector<std::size_t> behind_open_;
};

// Seconds that `work` takes, the least of some runs.
template <class Work>
auto measure(Work work) -> double {
  auto least = std::chrono::duration<double>::max();
  for (int i = 0; i < 5; ++i) {
    printed.clear();
    auto const begin = std::chrono::steady_clock::now();
    work();
    least = std::min<std::chrono::duration<double>>(least, std::chrono::steady_clock::now() - begin);
  }
  return least.count();
}

auto run(std::string_view program) -> bool {
  auto const steps = parse(program);

  auto arena = fmmap::or_throw(fmmap::code_arena::create());
  auto const resource = fmmap::or_throw(fmmap::exec_resource::create(arena));
  std::pmr::vector<std::byte> code{resource.get()};
  compiler{code}.compile(steps);
  fmmap::or_throw(resource->flush()); // from here on it can be called
  auto* const entry = resource->entry<compiled>(code.data());

  auto const execute = [&] {
    std::vector<std::uint8_t> tape(65'536);
    entry(tape.data(), put, get);
  };
  execute();
  auto const output = printed;
  std::fputs(output.c_str(), stdout);
  if (program != squares) { // it may have read what it cannot read again
    return true;
  }
  auto const jit = measure(execute);
  auto const interpreted = measure([&] { interpret(steps); });
  std::printf("%zu bytes of code in an arena that is %s: %s.\n", code.size(), to_string(arena.strategy()).data(),
              arena.security_level().data());
  std::printf("interpreted %.2f ms, compiled %.2f ms: %.1f times as fast\n", interpreted * 1e3, jit * 1e3,
              interpreted / jit);
  return printed == output && output.ends_with("\n10000\n");
}

} // namespace

auto main(int argc, char** argv) -> int {
  try {
    if (argc < 2) {
      return run(squares) ? 0 : 1;
    }
    auto const program = fmmap::or_throw(fmmap::file_view::open(argv[1]));
    return run(program.text()) ? 0 : 1;
  } catch (std::exception const& why) {
    std::fprintf(stderr, "brainfuck_jit: %s\n", why.what());
    return 1;
  }
}
