//! Servers: what others reach over HTTP; and the anchor, which is reached so.

pub mod anchor;
pub mod control;
pub mod sim_server;
