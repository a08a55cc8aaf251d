//! Whole systems under test. [`dev`] starts the real binary and speaks to it as any program would; nothing here is
//! ever part of the product.

pub mod dev;
pub mod doc;
pub mod fleet;
pub mod guest;
pub mod netns;
pub mod pair;
pub mod process;
pub mod rabbitmq;
pub mod store;
