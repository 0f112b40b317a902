// SPDX-License-Identifier: MIT OR Apache-2.0
export module fmmap.core;

export import :counted;
export import :range;
export import :error;
export import :durability;
export import :number;
export import :cursor;
export import :file;
export import :readable;
export import :mapping;
export import :flush_job;
export import :mapped_file;
export import :mutable_mapped_file;
export import :file_view;
export import :guarded;
export import :lines;
export import :records;
export import :chunks;
