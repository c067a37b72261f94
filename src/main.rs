//! The `provost` command. All of it lives in the library, under `cli`.

/// What one thread allocates (an event) another one frees (the journal's writer), which the system's allocator is slow at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    provost::cli::main()
}
