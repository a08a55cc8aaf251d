//! First boots: a real Debian with systemd and cloud-init becomes what it is told, and machines are ready when what they
//! are to show has been seen.
//!
//! An emulated Debian boots for a minute or two, so each boot is looked at from all sides: one that goes well, is kept as
//! a snapshot with memory and begun again from there, and one whose user-data fails. Without root there is no Debian
//! image, and `make test` leaves out what is in `debian::`.

#[path = "first_boot/debian.rs"]
mod debian;
#[path = "first_boot/ready.rs"]
mod ready;
#[path = "first_boot/repository.rs"]
mod repository;
