//! The `provost` command. All of it lives in the library, under `cli`.

fn main() -> std::process::ExitCode {
    provost::cli::main()
}
