//! Servers: what others reach over HTTP.

pub mod sim_server;
