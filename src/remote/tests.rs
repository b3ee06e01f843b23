//! Real calls over loopback and into real folders.

mod cloud;
mod clouds;
mod dav;
mod folders;
mod server;
mod stores;
