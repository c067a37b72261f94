//! Servers: what others reach over HTTP.

pub mod control;
pub mod sim_server;
