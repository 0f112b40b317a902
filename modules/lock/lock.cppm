// SPDX-License-Identifier: MIT OR Apache-2.0
export module fmmap.lock;

export import :lock_mode;
export import :wait_for;
export import :file_lock;
export import :lock_set;
export import :lock_holder;
export import :locked_file;
