use super::Cuda;
use super::driver::Driver;
use crate::error::Error;
use crate::ops::pool::{Pool, PoolShape};
use crate::ops::{Ids, Tensor};

impl<R: Driver> Pool for Cuda<R> {
    fn pool(&mut self, _shape: PoolShape, _position: Option<Ids>, _x: Tensor, _y: Tensor) {
        self.fail(Error::run("pool: no kernel is launched yet"));
    }

    fn pool_backward(&mut self, _shape: PoolShape, _position: Option<Ids>, _dy: Tensor, _dx: Tensor) {
        self.fail(Error::run("pool: no kernel is launched yet"));
    }
}
