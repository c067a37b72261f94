//! The command line: arguments, what is printed, and exit codes.

pub mod sim_server;
