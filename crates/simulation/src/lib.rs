//! Simulations of the whole system. They are tests, in `tests/simulation`, because the clock that they hold still is not
//! to be in any build of the product.
