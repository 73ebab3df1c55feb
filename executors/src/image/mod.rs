//! Images: volumes made from them, and volumes uploaded as such.
//!
//! * [`store`]: where images are. [`glance`]: a Glance v2 endpoint. [`plain`]: a directory, or files
//!   behind an https address.
//! * [`upload`]: a file on its way to a Glance, which may take long but must go on.
//! * [`header`]: what an image file says of itself, read by us and not by a library that follows
//!   what it reads. [`convert`]: `qemu-img`, bounded.
//! * [`work`]: an image into a volume and back, so that doing it twice equals doing it once.
//!
//! Images are written by strangers. Nothing that one says is believed: its format is the one that
//! its store declares and the file must agree, it may name no other file, and it may not become
//! larger than the volume (OSSA-2024-001, CVE-2024-32498, CVE-2022-47951).

pub mod convert;
pub mod download;
pub mod glance;
pub mod header;
pub mod plain;
pub mod store;
pub mod upload;
pub mod work;

mod vdi;

pub use store::{Image, ImageError, ImageStore};
pub use work::{Images, ImagesConfig, act};
