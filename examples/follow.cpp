// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Prints what is appended to a file as it comes, until it is interrupted: follow FILE
//
// A file that is cut is followed from its start again, also when that happens while its bytes are being read. To be shown
// it, with a process that appends and cuts: follow --demo NEW_FILE

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <expected>
#include <filesystem>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>

#include <poll.h>
#include <sys/inotify.h>
#include <sys/wait.h>
#include <unistd.h>

import fmmap;

namespace {

[[noreturn]] void fail(char const* what) { throw std::system_error{errno, std::system_category(), what}; }

auto open_notices() -> fmmap::file {
  auto const descriptor = ::inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
  if (descriptor < 0) {
    fail("cannot watch files");
  }
  return fmmap::or_throw(fmmap::file::adopt(descriptor, "inotify", true)); // closes it from now on
}

class follower {
public:
  // Begins at the present end of the file.
  explicit follower(fmmap::file opened)
      : file_{std::move(opened)}, notices_{open_notices()}, position_{fmmap::or_throw(file_.size())} {
    // Through the descriptor: this file is followed, whatever its name comes to mean.
    auto const name = "/proc/self/fd/" + std::to_string(file_.native_handle());
    if (::inotify_add_watch(notices_.native_handle(), name.c_str(), IN_MODIFY) < 0) {
      fail("cannot watch the file");
    }
    auto const kept = static_cast<std::size_t>(std::min<std::uint64_t>(position_, last_size));
    if (copy_out({.offset = position_ - kept, .length = kept})) {
      last_ = buffer_;
    }
  }

  // What comes next in the file, a piece at a time; nothing when all there is has been given. Valid until the next call.
  auto next() -> std::string_view {
    auto const size = fmmap::or_throw(file_.size());
    if (size >= position_) {
      // With the last bytes given, which tell whether the file has been cut and has grown past them since.
      auto const fresh = static_cast<std::size_t>(std::min<std::uint64_t>(size - position_, piece_size));
      if (copy_out({.offset = position_ - last_.size(), .length = last_.size() + fresh}) &&
          buffer_.starts_with(last_)) {
        auto const text = std::string_view{buffer_}.substr(last_.size());
        position_ += text.size();
        last_ = buffer_.substr(buffer_.size() - std::min(buffer_.size(), last_size));
        return text;
      }
    }
    if (position_ == 0) {
      return {};
    }
    position_ = 0;
    last_.clear();
    return next();
  }

  // Waits until there may be more. inotify tells at once and costs nothing in between, but knows nothing of what other
  // machines do to a file that is shared by a network: hence a look every second.
  void wait() const {
    pollfd waiting{.fd = notices_.native_handle(), .events = POLLIN, .revents = 0};
    if (::poll(&waiting, 1, 1000) < 0 && errno != EINTR) {
      fail("cannot wait");
    }
    alignas(inotify_event) std::array<std::byte, 4096> notices;
    while (::read(notices_.native_handle(), notices.data(), notices.size()) > 0) {
      // What they say is seen in the file itself.
    }
  }

private:
  static constexpr std::size_t piece_size = std::size_t{1} << 20;
  static constexpr std::size_t last_size = 64;

  // Copies a part of the file to the buffer. Returns false when the file has been cut before its end.
  auto copy_out(fmmap::byte_range part) -> bool {
    auto const window = fmmap::mapping::map(file_, {.range = part});
    if (!window) {
      throw_unless_cut(window.error());
      return false;
    }
    buffer_.resize(part.length);
    auto const copied = fmmap::guarded_copy_out(window->bytes(), std::as_writable_bytes(std::span{buffer_}));
    if (!copied) {
      throw_unless_cut(copied.error());
      return false;
    }
    // Bytes cut off the last page read as zero instead.
    return fmmap::or_throw(file_.size()) >= part.offset + part.length;
  }

  static void throw_unless_cut(fmmap::error const& why) {
    if (why != fmmap::errc::truncated && why != fmmap::errc::out_of_range) {
      fmmap::throw_error(why);
    }
  }

  fmmap::file file_;
  fmmap::file notices_;
  std::uint64_t position_; // of what comes next
  std::string last_;       // the bytes before it
  std::string buffer_;
};

auto open_to_follow(std::filesystem::path const& path) -> fmmap::file {
  auto file = fmmap::or_throw(fmmap::file::open(path));
  std::byte first;
  if (fmmap::or_throw(file.size()) == 0 && fmmap::or_throw(file.read_at(0, {&first, 1})) == 1 &&
      fmmap::or_throw(file.size()) == 0) {
    throw std::runtime_error{path.string() + ": has bytes but no size, as files of /proc do, and cannot be followed"};
  }
  return file;
}

[[noreturn]] void follow(std::filesystem::path const& path) {
  follower following{open_to_follow(path)};
  while (true) {
    for (auto text = following.next(); !text.empty(); text = following.next()) {
      if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0) {
        fail("cannot print");
      }
    }
    following.wait();
  }
}

constexpr unsigned rounds = 3; // between two, the file is cut to nothing

auto round_text(unsigned round) -> std::string {
  std::string text;
  for (unsigned line = 1; line <= 500 * round; ++line) {
    text += "line " + std::to_string(line) + " of round " + std::to_string(round) + '\n';
  }
  return text;
}

// Appends the lines of all rounds in pieces, and before each round cuts the file, once it is told to.
[[noreturn]] void write_rounds(std::filesystem::path const& path, int told) {
  auto file = fmmap::or_throw(fmmap::file::open(path, {.access = fmmap::access::read_write}));
  std::mt19937 random{std::random_device{}()};
  std::uniform_int_distribution<std::size_t> sizes{1, 200};
  char go = 0;
  for (unsigned round = 1; round <= rounds && ::read(told, &go, 1) == 1; ++round) {
    auto const text = round_text(round);
    auto const all = std::as_bytes(std::span{text});
    fmmap::or_throw(file.resize(0));
    for (std::size_t at = 0; at < all.size();) {
      auto const piece = all.subspan(at, std::min(sizes(random), all.size() - at));
      fmmap::or_throw(file.write_at(at, piece));
      at += piece.size();
      std::this_thread::sleep_for(std::chrono::microseconds{100}); // so that pieces are seen one by one
    }
  }
  std::_Exit(0);
}

// Follows a file that another process writes. Returns whether exactly its lines have been seen.
auto demonstrate(std::filesystem::path const& path) -> bool {
  auto file = fmmap::or_throw(fmmap::file::create_new(path));
  follower following{open_to_follow(path)};
  int ends[2];
  if (::pipe(ends) != 0) {
    fail("cannot make a pipe");
  }
  auto const writer = ::fork();
  if (writer == 0) {
    ::close(ends[1]);
    write_rounds(path, ends[0]);
  }
  ::close(ends[0]);

  auto const deadline = std::chrono::steady_clock::now() + std::chrono::seconds{10};
  std::string expected;
  std::string seen;
  std::size_t pieces = 0;
  for (unsigned round = 1; round <= rounds; ++round) {
    if (::write(ends[1], "", 1) != 1) {
      fail("cannot tell the writer to go on");
    }
    if (round == rounds) { // not looked at until it is longer than before it was cut
      ::waitpid(writer, nullptr, 0);
    }
    expected += round_text(round);
    while (seen.size() < expected.size() && std::chrono::steady_clock::now() < deadline) {
      if (auto const text = following.next(); !text.empty()) {
        seen += text;
        ++pieces;
      } else {
        following.wait();
      }
    }
  }
  ::close(ends[1]);
  seen += following.next();
  fmmap::or_throw(file.remove());
  std::printf("%td lines in %zu pieces, of a file cut %u times: %s\n", std::ranges::count(seen, '\n'), pieces,
              rounds - 1, seen == expected ? "all seen, once" : "WRONG");
  return seen == expected;
}

} // namespace

auto main(int argc, char** argv) -> int try {
  if (argc == 3 && std::string_view{argv[1]} == "--demo") {
    return demonstrate(argv[2]) ? 0 : 1;
  }
  if (argc != 2) {
    std::fputs("usage: follow FILE\n       follow --demo NEW_FILE\n", stderr);
    return 2;
  }
  follow(argv[1]);
} catch (std::exception const& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
